"""From a photo's file to the files of its cut-out and its mask."""

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from u2slim.cutout.backgrounds import Picture
from u2slim.cutout.single import Cutout, Style, cut
from u2slim.errors import UserError
from u2slim.files import RealPaths, write_bytes_whole
from u2slim.images.colours import overlay
from u2slim.images.metadata import read_metadata
from u2slim.images.read import Loaded, load, read_photo
from u2slim.images.write import PNG, Format, encode
from u2slim.remote import Place, RemoteFile
from u2slim.runtime import Runner

# What OpenCV, onnxruntime, OpenVINO and torch say.
_NO_MEMORY = re.compile(
    r"insufficient memory|out of memory|bad[ _]alloc|failed to allocate|can't allocate", re.IGNORECASE
)
NOTE = ".made_by"  # names what made the results beside it, and is older than they are
RESULTS = ("masks", "cutouts", "classes", "overlays")  # folders of results


@dataclass(frozen=True)
class Made:
    """What was made of a photo.

    Args:
        files: the encoded mask and cut-out, those that are asked for.
        result: None of a net that tells classes apart.
        seconds: from reading the photo to encoding the results.
    """

    files: list[bytes]
    result: Cutout | None
    seconds: float

    def facts(self) -> dict[str, object]:
        """Whether there is a subject, its box, its share of the picture, the net's confidence, and the seconds."""
        told: dict[str, object] = {"seconds": round(self.seconds, 3)}
        if self.result is None:
            return told
        share, confidence = round(self.result.share, 4), round(self.result.confidence, 4)
        subject = "none" if self.is_empty else "found"
        return {"subject": subject, "box": self.result.box, "share": share, "confidence": confidence, **told}

    @property
    def is_empty(self) -> bool:
        """Whether there is a mask and nothing in it."""
        return self.result is not None and self.result.box is None


@dataclass(frozen=True)
class Cutter:
    """Turns one photo into files.

    In a folder these are `cutouts/NAME.png` and `masks/NAME.png`; of a net that tells classes apart
    `overlays/NAME.png`, their colours laid over the photo, and `classes/NAME.png`, whose gray values are the classes'
    numbers. Without a folder they are `NAME-cut.png` and `NAME-mask.png` beside the photo.

    Args:
        runner: of the net; as many threads may call it as there are workers.
        output: None: beside each photo; a folder; or, where `is_file`, a single photo's cut-out (or mask, if that is
            all), beside which the mask's name has `-mask`.
        cutout, mask: which of them to write.
        style: how they look.
        kind: of the files: of the cut-outs, or of the masks if these are all. Beside a cut-out masks are PNG files.
        keep: what cut-outs carry of their photo's `metadata.KINDS`.
        srgb: turn the photo's colours into sRGB's first.
    """

    runner: Runner
    output: Place | None = None
    is_file: bool = False
    cutout: bool = True
    mask: bool = True
    style: Style = field(default_factory=Style)
    kind: Format = PNG
    keep: tuple[str, ...] = ("icc",)
    srgb: bool = False

    def __call__(self, photo: Place | Loaded) -> Made:
        """The files of a photo, in memory.

        Raises:
            UserError: it cannot be read, the net gives NaN for it, or the format has no place for it.
        """
        start = time.perf_counter()
        data = load(photo)
        image, own = read_photo(data, self.srgb)
        metadata = read_metadata(data.data, [kind for kind in self.keep if kind != "icc" or not self.srgb])
        result, drawn = (None, self._classes(image)) if self.runner.labels else self._cut(image, own, metadata.icc)
        if self.style.background is not None:  # over which everything is in sRGB
            metadata = replace(metadata, icc=None)
        files = [encode(drawn[0], self.kind if not self.cutout else PNG)] if self.mask else []
        if self.cutout:
            files.append(encode(drawn[-1], self.kind, metadata))
        return Made(files, result, time.perf_counter() - start)

    def paths(self, photo: Place, name: Path) -> list[Place]:
        """What is written of a photo: of mask and cut-out those that are asked for."""
        endings = self._ending if not self.cutout else ".png", self._ending
        both: list[Place]
        if self.output is None:
            both = [
                photo.with_name(f"{name.name}-{kind}{end}") for kind, end in zip(("mask", "cut"), endings, strict=True)
            ]
        elif self.is_file:
            mask = self.output.with_name(f"{self.output.stem}-mask.png") if self.cutout else self.output
            both = [mask, self.output]
        else:
            kinds = RESULTS[2:] if self.runner.labels else RESULTS[:2]
            both = [self.output / kind / f"{name}{end}" for kind, end in zip(kinds, endings, strict=True)]
        return [path for path, wanted in zip(both, (self.mask, self.cutout), strict=True) if wanted]

    @property
    def into_folder(self) -> bool:
        """Whether results go into a folder of their own."""
        return self.output is not None and not self.is_file

    def settings(self, source: str) -> str:
        """The same for runs whose results are the same."""
        own = self.style, self.kind.name, self.keep, self.srgb
        parts = source, self.runner.fingerprint(), self.runner.stretch, *own
        return hashlib.sha256("\n".join(map(str, parts)).encode(errors="surrogateescape")).hexdigest()

    @property
    def bytes_a_pixel(self) -> int:
        """What is in memory of a photo at the peak, as measured with photos of 12 to 200 megapixels, and a margin."""
        if self.style.foreground is not None:
            return 128
        return 24 if self.kind is PNG and self.style.refine is None else 64

    @property
    def _ending(self) -> str:
        return self.kind.endings[0]

    def _cut(self, image: np.ndarray, own: np.ndarray | None, icc: bytes | None) -> tuple[Cutout, list[np.ndarray]]:
        style = self.style if self.cutout else replace(self.style, foreground=None)
        result = replace(cut(self.runner, image, own, style), icc=icc)
        drawn = [result.mask] if self.mask else []
        if self.cutout:
            drawn.append(result.rgba if style.background is None else result.on(style.background))
        part = (slice(None), slice(None)) if style.crop is None else result.window(style.crop)
        return result, [np.ascontiguousarray(pixels[part]) for pixels in drawn]

    def _classes(self, image: np.ndarray) -> list[np.ndarray]:
        assert self.runner.labels
        classes = self.runner.class_map(image)
        return [classes, overlay(image, classes, self.runner.labels["palette"])]


class OutOfMemory(str):
    """Why nothing was made of a photo, when there was too little memory for it."""


def attempt(cutter: Cutter, photo: Place | Loaded) -> Made | str:
    """What a cutter makes of a photo, or in a sentence why it makes nothing."""
    try:
        return cutter(photo)
    except UserError as error:
        return str(error) if str(photo) in str(error) else f"{photo}: {error}"
    except Exception as error:  # each runtime has errors of its own
        text = " ".join(str(error).split())[:300]
        if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
            return OutOfMemory(": ".join(filter(None, (str(photo), "not enough memory", text))))
        return ": ".join(filter(None, (str(photo), type(error).__name__, text)))


def spare_inputs(cutter: Cutter, photos: Sequence[tuple[Place, Path]]) -> None:
    """Raise UserError where a result of one of the photos would overwrite what is read: a photo, or the background."""
    real = RealPaths()

    def itself(place: Place) -> Place:
        """The same for all names of a file."""
        return place if isinstance(place, RemoteFile) else real(place)

    originals = {itself(photo): "photo" for photo, _ in photos}
    if isinstance(cutter.style.background, Picture):
        originals[itself(cutter.style.background.path)] = "background"
    for photo, name in photos:
        for path in cutter.paths(photo, name):
            if kind := originals.get(itself(path)):
                raise UserError(
                    f"The result of {photo} would overwrite the {kind} {path}; choose another place with -o."
                )


def write_files(paths: Sequence[Place], files: Sequence[bytes]) -> None:
    """Write a photo's results, each whole or not at all.

    Raises:
        UserError: a folder cannot be written; NotWritten: a store does not take them.
    """
    for path, data in zip(paths, files, strict=True):
        if isinstance(path, RemoteFile):
            path.write_bytes(data)
        else:
            write_bytes_whole(path, data)
