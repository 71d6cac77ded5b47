"""Published files: found where they may lie already, or else downloaded; used only if their checksum is right."""

import os
import sys
from functools import cache, partial
from pathlib import Path

import u2slim.nets
from u2slim.download import download
from u2slim.errors import UserError
from u2slim.files import cache_dir, file_digest, is_web_page, user_path
from u2slim.zoo.records import PUBLISHED, Published, PublishedFile

NETS = Path(u2slim.nets.__file__).parent  # package data


def rembg_dirs(name: str) -> tuple[Path, ...]:
    """Where rembg keeps the file of a net: a folder for each net, and that of its versions before, for all.

    They are below `$U2NET_HOME`; without that `$REMBG_HOME`, or `.rembg`, and `.u2net` in the user's home folder.
    """
    own, data, fallback = (os.environ.get(variable) for variable in ("U2NET_HOME", "XDG_DATA_HOME", "REMBG_HOME"))
    before = user_path(own or Path(data or Path.home()) / ".u2net")
    now = user_path(own or fallback or (Path(data) / "rembg" if data else Path.home() / ".rembg"))
    return now / "models" / name, before


def find(published: Published, onnx: bool = False) -> Path | None:
    """A file of a published net that is at hand: in the package, the cache folder or rembg's.

    Args:
        onnx: take no other than an ONNX file.

    Raises:
        UserError: the file in the cache folder is damaged.
    """
    for file in published.files:
        for folder in (NETS, cache_dir(), *rembg_dirs(published.name)):
            path = folder / file.name
            if (onnx and not file.is_onnx) or not path.is_file():
                continue
            if file_digest(path, "md5") == file.md5:
                return path
            if folder == cache_dir():
                raise UserError(f"{_wrong(path, file)}. Delete it to download it again.")
            note(f"{_wrong(path, file)}; it is not used.")
    return None


def fetch(published: Published, onnx: bool = False) -> Path:
    """The file of a published net, downloaded into the cache folder on first use; see `find`.

    Raises:
        UserError: it is damaged, or cannot be downloaded (says what to download by hand and where to put it).
    """
    if (path := find(published, onnx)) is not None:
        return path
    files = [file for file in published.files if file.is_onnx or not onnx]
    reasons = []
    for file in files:
        path = cache_dir() / file.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            print(f"downloading {file.name} ({file.megabytes:g} MB) from {file.address}", file=sys.stderr)
            download([file.address], path, partial(_check, file))
            return path
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror or error}); set U2SLIM_CACHE.") from error
        except UserError as error:
            reasons.append(str(error))
    by_hand = " or ".join(f"{file.name} from {file.address}" for file in files)
    raise UserError(
        f"{published.name} could not be downloaded: {'; '.join(dict.fromkeys(reasons))}. "
        f"Download it by hand, {by_hand}, and put it into {cache_dir()}; or give the path of a copy in place of the "
        "name."
    )


def record_of(path: Path) -> Published | None:
    """Which published net a file is of, by its checksum."""
    digest = file_digest(path, "md5")
    return next((net for net in PUBLISHED.values() if any(file.md5 == digest for file in net.files)), None)


@cache
def note(text: str) -> None:
    """Say it once."""
    print(f"u2slim: {text}", file=sys.stderr)


def _check(file: PublishedFile, path: Path) -> None:
    if is_web_page(path):
        raise UserError(f"{file.address} sent a web page instead of {file.name}")
    if file_digest(path, "md5") != file.md5:
        raise UserError(_wrong(path, file))


def _wrong(path: Path, file: PublishedFile) -> str:
    size = path.stat().st_size / 1e6
    return f"{path} ({size:.1f} MB) is not the published file of {file.megabytes:g} MB with MD5 {file.md5}"
