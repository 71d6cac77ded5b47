"""Masks and cut-outs of a photo or a folder of photos, several at a time."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from u2slim.cutout.cut import cut
from u2slim.errors import UserError
from u2slim.files import write_whole
from u2slim.images.colours import overlay
from u2slim.images.read import read_photo
from u2slim.images.refine import Foreground, Refine
from u2slim.images.write import write_png
from u2slim.runtime import Runner

MAX_WORKERS = 8  # by default: each holds a photo and a net's activations
RESULTS = ("masks", "cutouts", "classes", "overlays")  # folders of results
NOTE = ".made_by"  # names what made the results beside it, and is older than they are


@dataclass
class Outcome:
    """How many photos were done, how many of them by an earlier run, and for the others the reason by path."""

    done: int = 0
    before: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cutter:
    """Turns one photo into files at the photo's own size.

    In a folder these are `cutouts/NAME.png` and `masks/NAME.png`; of a net that tells classes apart
    `overlays/NAME.png`, their colours laid over the photo, and `classes/NAME.png`, whose gray values are the classes'
    numbers. Without a folder they are `NAME-cut.png` and `NAME-mask.png` beside the photo.

    Args:
        runner: of the net; as many threads may call it as there are workers.
        output: the folder; None: beside each photo; a `.png` file for a single photo's cut-out (or mask, if that is
            all), beside which the mask's name has `-mask`.
        cutout, mask: which of them to write.
        refine, foreground: see `cut`.
    """

    runner: Runner
    output: Path | None = None
    cutout: bool = True
    mask: bool = True
    refine: Refine | None = None
    foreground: Foreground | None = None

    def __call__(self, photo: Path, name: Path) -> str | None:
        """Why there is no mask; None when all is written."""
        try:
            image, own = read_photo(photo)
            results = list(self._results(image, own))
        except UserError as error:
            return str(error) if str(photo) in str(error) else f"{photo}: {error}"
        except (MemoryError, cv2.error) as error:
            return f"{photo}: {' '.join(str(error).split()) or 'not enough memory'}"
        for path, pixels in zip(self.paths(photo, name), results, strict=True):
            write_png(path, pixels)
        return None

    def paths(self, photo: Path, name: Path) -> list[Path]:
        """What is written of a photo: of mask and cut-out those that are asked for."""
        if self.output is None:
            both = [photo.with_name(f"{name.name}-{ending}.png") for ending in ("mask", "cut")]
        elif not self.into_folder:
            both = [self.output, self.output]
            if self.cutout:
                both[0] = self.output.with_name(f"{self.output.stem}-mask.png")
        else:
            kinds = RESULTS[2:] if self.runner.labels else RESULTS[:2]
            both = [self.output / kind / f"{name}.png" for kind in kinds]
        return [path for path, wanted in zip(both, (self.mask, self.cutout), strict=True) if wanted]

    @staticmethod
    def is_folder(output: Path | None) -> bool:
        """Whether an output names a folder for results, whose earlier ones can be told from photos."""
        return output is not None and output.suffix.lower() != ".png"

    @property
    def into_folder(self) -> bool:
        """Whether results go into a folder of their own."""
        return self.is_folder(self.output)

    def settings(self, source: str) -> str:
        """The same for runs whose results are the same."""
        parts = source, self.runner.fingerprint(), self.runner.stretch, self.refine, self.foreground
        return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()

    def _results(self, image: np.ndarray, own: np.ndarray | None) -> Iterator[np.ndarray]:
        if self.runner.labels:
            classes = self.runner.class_map(image)
            if self.mask:
                yield classes
            if self.cutout:
                yield overlay(image, classes, self.runner.labels["palette"])
            return
        result = cut(self.runner, image, own, self.refine, self.foreground if self.cutout else None)
        if self.mask:
            yield result.mask
        if self.cutout:
            yield result.rgba


def cut_all(
    cutter: Cutter, source: str, photos: Sequence[tuple[Path, Path]], workers: int = 1, redo: bool = False
) -> Outcome:
    """Cut out the photos (file, name) that were found at `source`, `workers` at a time in as many threads.

    Decoding, nets, and encoding all leave Python's lock to the other threads. Where results go into a folder, photos
    whose results are newer, and made with the same settings, are passed over unless `redo`.

    Args:
        cutter: makes and writes the results.
        source: what was asked for, which tells the folders of two commands apart.
        photos: see `find_photos`.

    Raises:
        UserError: a result cannot be written, or would overwrite one of the photos.
        KeyboardInterrupt: with a sentence on what is done; photos on the way were finished, so no file is partial.
    """
    _spare(cutter, photos)
    todo = [*photos] if redo or not cutter.into_folder else _not_done(cutter, source, photos)
    outcome = Outcome(len(photos) - len(todo), len(photos) - len(todo))
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(cutter, photo, name): str(photo) for photo, name in todo}
        try:
            for future in track(as_completed(futures), "cutting out", total=len(futures), disable=len(futures) < 2):
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
                "goes on."
            ) from None
    return outcome


def earlier_results(sources: Sequence[str | Path], output: Path | None = None) -> list[Path]:
    """The folders of results, of this command and of earlier ones, that are below the folders to look for photos in."""
    made = {note.parent for source in sources for note in Path(source).expanduser().rglob(NOTE)}
    return [folder / kind for folder in sorted(made | {output} if output else made) for kind in RESULTS]


def default_workers(photos: int) -> int:
    """One a core and at most eight, where there are so many photos."""
    if photos == 1:
        return 1
    from loky import cpu_count  # a tenth of a second, which one photo does not need

    return min(cpu_count(), MAX_WORKERS, photos)


def _spare(cutter: Cutter, photos: Sequence[tuple[Path, Path]]) -> None:
    originals = {photo.resolve() for photo, _ in photos}
    for photo, name in photos:
        if lost := [path for path in cutter.paths(photo, name) if path.resolve() in originals]:
            raise UserError(f"The result of {photo} would overwrite the photo {lost[0]}; choose another place with -o.")


def _not_done(cutter: Cutter, source: str, photos: Sequence[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    since = _since(cutter, source)
    return [(photo, name) for photo, name in photos if not _is_done(cutter, photo, name, since)]


def _since(cutter: Cutter, source: str) -> int:
    """When results of the same settings began to be written to the folder, in ns; results from before are others'."""
    assert cutter.output is not None
    note, settings = cutter.output / NOTE, cutter.settings(source)
    if not note.is_file() or note.read_text() != settings:
        write_whole(note, lambda path: path.write_text(settings))
    return note.stat().st_mtime_ns


def _is_done(cutter: Cutter, photo: Path, name: Path, since: int) -> bool:
    try:
        stat = photo.stat()
        # A photo that was moved here has an old time of writing, but not of change.
        newest = max(since, stat.st_mtime_ns, stat.st_ctime_ns)
        return all(path.stat().st_mtime_ns >= newest for path in cutter.paths(photo, name))
    except OSError:
        return False
