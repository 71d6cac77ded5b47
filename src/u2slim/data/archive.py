"""Zip and tar archives from elsewhere: downloads that continue, checks, and unpacking that stays in its folder."""

import gzip
import logging
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from u2slim.download import download as download_file
from u2slim.errors import UserError
from u2slim.files import file_digest, is_web_page

log = logging.getLogger(__name__)

_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,
)
_LITTER = ("__MACOSX", ".DS_Store")


def download(urls: Iterable[str], path: Path) -> None:
    """Download an archive from the first address that has it; see `u2slim.download`."""
    download_file(urls, path, kind)


def compare(path: Path, size: int | None, sha256: str | None) -> None:
    """Compare a file with the size (bytes) and SHA-256 that are reported of it, where they are.

    Raises:
        UserError: they differ.
    """
    found = path.stat().st_size
    if size is not None and found != size:
        raise UserError(f"{path} has {found:,} bytes instead of the reported {size:,}.")
    if sha256 is None:
        return
    if (digest := file_digest(path, "sha256")) != sha256:
        raise UserError(f"{path} has SHA-256 {digest} instead of the reported {sha256}.")


def kind(path: Path) -> str:
    """`zip` or `tar`.

    Raises:
        UserError: it is something else, which the message names, or not whole.
    """
    if zipfile.is_zipfile(path):
        return "zip"
    if tarfile.is_tarfile(path):
        return "tar"
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if is_web_page(path):
        reason = "is a web page, not an archive"
    elif head.startswith((b"rar!", b"7z\xbc\xaf")):
        raise UserError(f"{path} is a RAR or 7-Zip archive: unpack it by hand.")
    elif head.startswith((b"pk\x03\x04", b"\x1f\x8b")):
        reason = "is a truncated archive"
    else:
        reason = "is neither a zip nor a tar archive" if head else "is empty"
    raise UserError(f"{path} {reason}: delete it and get it again.")


def unpack(path: Path, folder: Path) -> None:
    """Unpack an archive into an existing folder, without what macOS adds. Every member's checksum is compared.

    Names and free space are looked at before anything is written; after an error the folder may hold a part.

    Raises:
        UserError: it is no zip or tar archive, damaged, or encrypted; a member would land outside the folder or is
            a link; or the disk has too little room.
    """
    try:
        if kind(path) == "zip":
            _unpack_zip(path, folder)
        else:
            _unpack_tar(path, folder)
    except _DAMAGED as error:
        raise UserError(f"{path} is damaged ({error}): delete it and get it again.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be unpacked into {folder}: {error.strerror or error}.") from error


def _unpack_zip(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not _is_litter(member.filename)]
        for member in members:
            _check_name(path, member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise _refused(path, member.filename, "is a link")
            if member.flag_bits & 1:
                raise _refused(path, member.filename, "is encrypted")
        _check_room(path, folder, (member.file_size for member in members))
        for member in members:
            archive.extract(member, folder)


def _unpack_tar(path: Path, folder: Path) -> None:
    with tarfile.open(path) as archive:
        members = [member for member in archive.getmembers() if not _is_litter(member.name)]
        for member in members:
            _check_name(path, member.name)
            if not (member.isfile() or member.isdir()):
                raise _refused(path, member.name, "is a link" if member.issym() or member.islnk() else "is no file")
        _check_room(path, folder, (member.size for member in members))
        for member in members:
            archive.extract(member, folder, filter="data")
        while archive.fileobj.read(1 << 20):
            pass  # a compressed archive's checksum comes last


def _parts(name: str) -> list[str]:
    return name.replace("\\", "/").split("/")


def _is_litter(name: str) -> bool:
    return any(part in _LITTER for part in _parts(name))


def _check_name(path: Path, name: str) -> None:
    parts = _parts(name)
    if parts[0] == "" or ".." in parts or re.match("[A-Za-z]:", name):
        raise _refused(path, name, "would land outside the folder")


def _refused(path: Path, name: str, reason: str) -> UserError:
    return UserError(f"{path} is refused, nothing was unpacked: its member {name!r} {reason}.")


def _check_room(path: Path, folder: Path, sizes: Iterable[int]) -> None:
    needed, free = sum(sizes), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{path} needs {needed / 1e6:,.0f} MB on the disk of {folder}, which has {free / 1e6:,.0f} MB left: "
            f"make room or choose another root."
        )
