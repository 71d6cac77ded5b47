"""Masks and cut-outs of a photo or a folder of photos, several at a time."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from loky import cpu_count
from rich.progress import track

from u2slim.errors import UserError
from u2slim.files import write_whole
from u2slim.images.colours import overlay
from u2slim.images.masks import to_8bit
from u2slim.images.read import read_photo
from u2slim.images.refine import Foreground, Refine
from u2slim.images.write import write_png
from u2slim.runtime import Segmenter

MOST_WORKERS = 8  # by default: each holds a photo and a net's activations
KINDS = ("masks", "cutouts", "classes", "overlays")  # folders of results
NOTE = ".made_by"  # names what made the results beside it, and is older than they are


@dataclass
class Outcome:
    """How many photos were done, how many of them by an earlier run, and for the others the reason by path."""

    done: int = 0
    before: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cutter:
    """Turns one photo into `masks/NAME.png` and, with `cutout`, `cutouts/NAME.png` at the photo's own size.

    With a segmenter that tells classes apart into `classes/NAME.png`, whose gray values are the classes' numbers, and
    `overlays/NAME.png`, their colours laid over the photo.
    """

    segmenter: Segmenter
    output: Path
    cutout: bool = True
    refine: Refine | None = None
    foreground: Foreground | None = None

    def __call__(self, photo: Path, name: Path) -> str | None:
        """Why there is no mask; None when all is written."""
        try:
            image, rgba = read_photo(photo)
            mask = self.segmenter.class_map(image) if self.segmenter.labels else self._mask(image)
            results = list(self._results(image, mask, rgba))
        except UserError as error:
            return str(error) if str(photo) in str(error) else f"{photo}: {error}"
        except (MemoryError, cv2.error) as error:
            return f"{photo}: {' '.join(str(error).split()) or 'not enough memory'}"
        for path, pixels in zip(self.paths(name), results, strict=True):
            write_png(path, pixels)
        return None

    def paths(self, name: Path) -> list[Path]:
        """What is written of a photo."""
        kinds = KINDS[2:] if self.segmenter.labels else KINDS[:2]
        return [self.output / kind / f"{name}.png" for kind in kinds[: 1 + self.cutout]]

    def settings(self, source: Path) -> str:
        """The same for runs whose results are the same."""
        parts = source.resolve(), self.segmenter.fingerprint(), self.segmenter.stretch, self.refine, self.foreground
        return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()

    def _mask(self, image: np.ndarray) -> np.ndarray:
        mask = self.segmenter(image)
        return to_8bit(mask if self.refine is None else self.refine(image, mask))

    def _results(self, image: np.ndarray, mask: np.ndarray, rgba: np.ndarray | None) -> Iterator[np.ndarray]:
        yield mask
        if self.cutout and self.segmenter.labels:
            yield overlay(image, mask, self.segmenter.labels["palette"])
        elif self.cutout:
            # What was transparent in the photo stays so in the cut-out.
            if rgba is not None:
                image, mask = rgba[..., :3], (mask.astype(np.uint16) * rgba[..., 3] // 255).astype(np.uint8)
            if self.foreground is not None:
                image = self.foreground(image, mask)
            result = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
            result[..., 3] = mask
            yield result


def predict(
    cutter: Cutter, source: Path, photos: Sequence[tuple[Path, Path]], workers: int = 1, redo: bool = False
) -> Outcome:
    """Cut out the photos (file, name) that were found at `source`, `workers` at a time in as many threads.

    Decoding, nets, and encoding all leave Python's lock to the other threads. Photos whose results are newer, and made
    with the same settings, are passed over unless `redo`.

    Raises:
        UserError: a result cannot be written, or would overwrite one of the photos.
        KeyboardInterrupt: with a sentence on what is done; photos on the way were finished, so no file is partial.
    """
    _spare(cutter, photos)
    since = _since(cutter, source)
    todo = [(photo, name) for photo, name in photos if redo or not _is_done(cutter, photo, name, since)]
    outcome = Outcome(len(photos) - len(todo), len(photos) - len(todo))
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(cutter, photo, name): str(photo) for photo, name in todo}
        try:
            for future in track(as_completed(futures), "cutting out", total=len(futures)):
                if reason := future.result():
                    outcome.failed[futures[future]] = reason
                else:
                    outcome.done += 1
        except BaseException as error:
            pool.shutdown(cancel_futures=True)
            if not isinstance(error, KeyboardInterrupt):
                raise
            finished = [f for f in futures if not f.cancelled() and not f.exception() and not f.result()]
            raise KeyboardInterrupt(
                f"interrupted: {outcome.before + len(finished)} of {len(photos)} photos are done; the same command "
                f"with output={cutter.output} goes on."
            ) from None
    return outcome


def _spare(cutter: Cutter, photos: Sequence[tuple[Path, Path]]) -> None:
    originals = {photo.resolve() for photo, _ in photos}
    for photo, name in photos:
        if lost := [path for path in cutter.paths(name) if path.resolve() in originals]:
            raise UserError(f"The result of {photo} would overwrite the photo {lost[0]}; choose another output=.")


def default_workers(photos: int) -> int:
    """One a core and at most eight, where there are so many photos."""
    return min(cpu_count(), MOST_WORKERS, photos)


def _since(cutter: Cutter, source: Path) -> int:
    """When results of the same settings began to be written to the folder, in ns; results from before are others'."""
    note, settings = cutter.output / NOTE, cutter.settings(source)
    if not note.is_file() or note.read_text() != settings:
        write_whole(note, lambda path: path.write_text(settings))
    return note.stat().st_mtime_ns


def _is_done(cutter: Cutter, photo: Path, name: Path, since: int) -> bool:
    try:
        stat = photo.stat()
        # A photo that was moved here has an old time of writing, but not of change.
        newest = max(since, stat.st_mtime_ns, stat.st_ctime_ns)
        return all(path.stat().st_mtime_ns >= newest for path in cutter.paths(name))
    except OSError:
        return False
