"""Masks and cut-outs of a photo or a folder of photos, several at a time."""

import errno
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Lock

from u2slim.cutout.cutter import RESULTS, Cutter, Made, OutOfMemory, attempt, spare_inputs, write_files
from u2slim.errors import UserError
from u2slim.files import user_path, write_whole
from u2slim.images.read import image_size
from u2slim.processes import memory_to_take

MAX_WORKERS = 8  # by default: each holds a photo and a net's activations
NOTE = ".made_by"  # names what made the results beside it, and is older than they are

# A photo's file and the name of its results; see `find_photos`.
Named = tuple[Path, Path]
# Called with each photo, the paths of its results, and what was made of it, or why nothing was; None: done before.
Report = Callable[[Path, list[Path], Made | str | None], object]


@dataclass
class Outcome:
    """How many photos were done, how many of them by an earlier run, and for the others the reason by path.

    `empty` are those of them done now in which no subject was found.
    """

    done: int = 0
    before: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)


def cut_all(
    cutter: Cutter,
    source: str,
    photos: Sequence[Named],
    workers: int = 1,
    redo: bool = False,
    report: Report | None = None,
    progress: bool = True,
) -> Outcome:
    """Cut out the photos (file, name) that were found at `source`, `workers` at a time in as many threads.

    Decoding, nets, and encoding all leave Python's lock to the other threads. Large photos wait for each other where
    memory is short, and what ran out of it is tried once more alone. Where results go into a folder, photos
    whose results are newer, and made with the same settings, are passed over unless `redo`. Whatever goes wrong with
    one photo is its line among the failures.

    Args:
        cutter: makes the results.
        source: what was asked for, which tells the folders of two commands apart.
        photos: see `find_photos`.
        workers: photos at a time.
        redo: also photos that are done already.
        report: is told of each photo as it is done or has failed, first of those that were done before.
        progress: show how far it is, on standard error, where there are several photos.

    Raises:
        UserError: a result cannot be written, or would overwrite one of the photos.
        KeyboardInterrupt: with a sentence on what is done; photos on the way were finished, so no file is partial.
    """
    spare_inputs(cutter, photos)
    todo = [*photos] if redo or not cutter.into_folder else _not_done(cutter, source, photos)
    outcome, lock, memory = Outcome(len(photos) - len(todo), len(photos) - len(todo)), Lock(), Memory()
    again: list[Named] = []
    if report:
        left = {photo for photo, _ in todo}
        for photo, name in photos:
            if photo not in left:
                report(photo, cutter.paths(photo, name), None)
    with _advance(len(todo) if progress else 0) as advance, ThreadPoolExecutor(workers) as pool:

        def work(photo: Path, name: Path, alone: bool = False) -> None:
            with memory.for_photo(photo, cutter.bytes_a_pixel):
                made = _one(cutter, photo, name)
            with lock:
                if isinstance(made, OutOfMemory) and not alone and workers > 1:
                    again.append((photo, name))
                    return
                if isinstance(made, str):
                    outcome.failed[str(photo)] = made
                else:
                    outcome.done += 1
                    if made.is_empty:
                        outcome.empty.append(str(photo))
                if report:
                    report(photo, cutter.paths(photo, name), made)
                advance()

        running: set[Future] = set()
        try:
            for photo, name in todo:
                running.add(pool.submit(work, photo, name))
                if len(running) > 2 * workers:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    _ = [future.result() for future in finished]  # which raises what ended one
            _ = [future.result() for future in running]
            for photo, name in again:  # one after the other there may be room
                work(photo, name, alone=True)
        except BaseException as error:
            pool.shutdown(cancel_futures=True)
            if not isinstance(error, KeyboardInterrupt):
                raise
            goes_on = "; the same command goes on" if cutter.into_folder else ""
            raise KeyboardInterrupt(f"interrupted: {outcome.done} of {len(photos)} photos are done{goes_on}.") from None
    return outcome


def earlier_results(sources: Sequence[str | Path], output: Path | None = None) -> list[Path]:
    """The folders of results, of this command and of earlier ones, that are below the folders to look for photos in."""
    made = {note.parent for source in sources for note in user_path(source).rglob(NOTE)}
    return [folder / kind for folder in sorted(made | {output} if output else made) for kind in RESULTS]


def default_workers(photos: int) -> int:
    """One a core and at most eight, where there are so many photos."""
    if photos == 1:
        return 1
    from loky import cpu_count  # a tenth of a second, which one photo does not need

    return min(cpu_count(), MAX_WORKERS, photos)


def _one(cutter: Cutter, photo: Path, name: Path) -> Made | str:
    """What was made and written of a photo, or why there is nothing."""
    before = state(photo)
    made = attempt(cutter, photo)
    if isinstance(made, str):
        return made
    if photo.is_file() and state(photo) != before:  # whose result would look newer than it is
        return f"{photo} has changed while it was cut out; run the command again."
    try:
        write_files(cutter.paths(photo, name), made.files)
    except UserError as error:
        if getattr(error.__cause__, "errno", None) != errno.ENAMETOOLONG:
            raise  # what one cannot write, others cannot, either
        return f"{photo}: its name is too long for those of its results; rename it."
    return made


def state(photo: Path) -> tuple[int, int]:
    """What tells whether a file has changed: its size and the time of that."""
    try:
        stat = photo.stat()
    except OSError:  # gone by now
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


class Memory:
    """Lets so many photos be worked on at once as there is memory for, and one however large it is.

    Args:
        free: bytes that all together may take; None: `memory_to_take`, or any where nobody knows.
    """

    def __init__(self, free: int | None = None):
        self.free = memory_to_take() if free is None else free
        self.taken, self.change = 0, Condition()

    @contextmanager
    def for_photo(self, photo: Path, bytes_a_pixel: int) -> Iterator[None]:
        """Wait until there is room for it, and keep that."""
        wanted = 0
        if photo.is_file():  # a pipe can be read only once
            with suppress(UserError):  # which reading it brings up again
                wanted = math.prod(image_size(photo)) * bytes_a_pixel
        with self.change:
            self.change.wait_for(lambda: not self.taken or self.free is None or self.taken + wanted <= self.free)
            self.taken += wanted
        try:
            yield
        finally:
            with self.change:
                self.taken -= wanted
                self.change.notify_all()


@contextmanager
def _advance(count: int) -> Iterator[Callable[[], object]]:
    """A bar, where there are several photos, and what moves it on by one."""
    if count < 2:
        yield lambda: None
        return
    from u2slim.terminal import bar  # takes a moment, which one photo does not need

    with bar("cutting out", count) as advance:
        yield advance


def _not_done(cutter: Cutter, source: str, photos: Sequence[Named]) -> list[Named]:
    since = _since(cutter, source)
    return [(photo, name) for photo, name in photos if not _is_done(cutter, photo, name, since)]


def _since(cutter: Cutter, source: str) -> int:
    """When results of the same settings began to be written to the folder, in ns; results from before are others'."""
    assert cutter.output is not None
    note, settings = cutter.output / NOTE, cutter.settings(source)
    try:
        is_same = note.read_bytes() == settings.encode()
    except OSError:  # there is none, or none that can be read
        is_same = False
    if not is_same:
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
