"""Finding photos in stores that fsspec knows, by one listing a folder."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from u2slim.errors import UserError
from u2slim.images.photos import Found, NoPhotos, names_in_folder, others_named, told_apart
from u2slim.images.read import EXTENSIONS
from u2slim.remote import RemoteFile, listing, open_address

# What listings say that changes with a file, the surest first: the stores each have one or two of them.
_CHANGES = ("ETag", "etag", "md5Hash", "content_md5", "generation", "mtime", "LastModified", "last_modified", "created")


def find_remote_photos(
    addresses: Sequence[str], note: str, kinds: Sequence[str], output: RemoteFile | None = None
) -> tuple[Found[RemoteFile], dict[RemoteFile, str]]:
    """Photos at addresses of files, folders, or patterns with `*`, with the names of their results.

    Results of earlier runs are passed over: what is in the folders `kinds` beside a file called `note`, or below
    `output`. So are hidden files. Files whose names cannot be those of results are among `Found.closed`.

    Returns:
        What was found, and for each photo its path below the address, without the ending.

    Raises:
        UserError: there is no photo, a store cannot be listed, or two photos have one name.
    """
    photos: dict[RemoteFile, tuple[RemoteFile, Path]] = {}
    keys: dict[RemoteFile, str] = {}
    others: dict[RemoteFile, None] = {}
    odd: dict[RemoteFile, None] = {}
    for address in addresses:
        is_file, listed = _below(address)
        below = dict(listed)
        made = [file.with_name("").path for file in below if file.name == note]
        made += [output.path.rstrip("/") + "/"] if output else []
        skipped = tuple(f"{folder}{kind}/" for folder in made for kind in kinds)
        fresh: dict[RemoteFile, str] = {}
        for file, relative in below.items():
            parts = relative.split("/")
            if file in photos or file.path.startswith(skipped):
                continue
            if {"", ".", ".."} & {*parts}:
                odd[file] = None
            elif is_file or (file.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in parts)):
                fresh[file] = relative
            elif any(part.startswith(".") for part in parts):
                continue
            else:
                others[file] = None
        for file, name in zip(fresh, names_in_folder([Path(relative) for relative in fresh.values()]), strict=True):
            photos[file] = file, name
            keys[file] = Path(fresh[file]).with_suffix("").as_posix()
    if not photos and not odd:
        there = f"; there is {others_named(list(others))}" if others else ""
        raise NoPhotos(f"No photos at {' '.join(addresses)} (looked for {', '.join(EXTENSIONS)}){there}.")
    named = told_apart(list(photos.values()), lambda photo, name: name, lambda photo: Path(photo.path.lstrip("/")))
    return Found(named, [], list(others), [], list(odd)), keys


def _below(address: str) -> tuple[bool, list[tuple[RemoteFile, str]]]:
    """Whether an address is a file's, and the files there with their paths below it; of a file its name."""
    top = open_address(address)
    fs, found = top.fs, list[tuple[RemoteFile, str]]()
    with listing(address):
        if "*" in top.path:
            entries = fs.glob(top.path, detail=True)
            if not entries:
                raise UserError(f"No photo or folder matches {address}.")
        else:
            try:
                entries = {top.path: fs.info(top.path)}
            except FileNotFoundError as error:
                raise UserError(f"No photo or folder at {address}.") from error
        for place, info in sorted(entries.items()):
            if info["type"] != "directory":
                found.append((_file(top, place, info), place.rpartition("/")[2]))
                continue
            start = place.rstrip("/") + "/"
            for path, below in sorted(fs.find(place, detail=True).items()):
                if not path.endswith("/"):  # as the consoles of stores mark folders
                    found.append((_file(top, path, below), path.removeprefix(start)))
    return "*" not in top.path and info["type"] != "directory", found


def _file(top: RemoteFile, path: str, info: Mapping[str, Any]) -> RemoteFile:
    changes = next((info[key] for key in _CHANGES if info.get(key) is not None), "")
    changes = changes.timestamp() if isinstance(changes, datetime) else changes
    return RemoteFile(top.fs, path, f"{info.get('size')}-{changes}".replace('"', ""))
