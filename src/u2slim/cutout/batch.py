"""Masks and cut-outs of a photo or a folder of photos, several at a time."""

import errno
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Lock, Semaphore
from typing import Protocol, TypeAlias, TypeVar

from u2slim.cutout.cutter import NOTE, RESULTS, Cutter, Made, OutOfMemory, attempt, spare_inputs, write_files
from u2slim.cutout.manifest import FOLDER, Manifest
from u2slim.errors import UserError
from u2slim.files import user_path, write_whole
from u2slim.images.read import Loaded, image_size, load
from u2slim.processes import memory_to_take
from u2slim.remote import NotWritten, Place, RemoteFile

MAX_WORKERS = 8  # by default: each holds a photo and a net's activations

WRITTEN = (*RESULTS, FOLDER)  # below the folder of results
# For each worker, where photos or results are elsewhere: one computes while the others wait for a store.
THREADS_A_WORKER = 4

P = TypeVar("P", bound=Place)
# A photo's file and the name of its results; see `find_photos`.
Named: TypeAlias = tuple[P, Path]
# Called with each photo, the paths of its results, and what was made of it, or why nothing was; None: done before.
Report = Callable[[P, list[Place], "Told | str | None"], object]
# Called with a photo, its name, its `version` before it was read, and what was made of it, or why nothing was.
Tell = Callable[[P, Path, str, "Told | str"], object]
# Cuts out photos, so many at a time, and tells of each.
Work = Callable[[Cutter, Sequence[Named[P]], int, Tell[P]], object]


class Told(Protocol):
    """What is known of a photo that was cut out."""

    @property
    def is_empty(self) -> bool: ...

    def facts(self) -> dict[str, object]: ...


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
    photos: Sequence[Named[P]],
    workers: int = 1,
    redo: bool = False,
    report: Report[P] | None = None,
    progress: bool = True,
    manifest: Manifest | None = None,
    work: "Work[P] | None" = None,
) -> Outcome:
    """Cut out the photos (file, name) that were found at `source`, `workers` at a time.

    Where results go into a folder, photos that are done are passed over unless `redo`: by the manifest, or, without
    one, those whose results are newer, and made with the same settings. Whatever goes wrong with one photo is its line
    among the failures.

    Args:
        cutter: makes the results.
        source: what was asked for, which tells the folders of two commands apart.
        photos: see `find_photos`.
        workers: photos at a time.
        redo: also photos that are done already.
        report: is told of each photo as it is done or has failed, first of those that were done before.
        progress: show how far it is, on standard error, where there are several photos.
        manifest: what was done by earlier runs, and is to hold what this one does.
        work: does it; None: `in_threads`.

    Raises:
        UserError: a result cannot be written, or would overwrite one of the photos.
        KeyboardInterrupt: with a sentence on what is done; photos on the way were finished, so no file is partial.
    """
    spare_inputs(cutter, photos)
    if redo or not cutter.into_folder:
        todo = [*photos]
    elif manifest:
        todo = [(photo, name) for photo, name in photos if not manifest.is_done(name, version(photo))]
    else:
        todo = _not_done(cutter, source, photos)
    before = len(photos) - len(todo)
    outcome, lock = Outcome(before, before), Lock()
    if report and before:
        left = {photo for photo, _ in todo}
        for photo, name in photos:
            if photo not in left:
                report(photo, cutter.paths(photo, name), None)
    with manifest or nullcontext(), _advance(len(todo) if progress else 0) as advance:

        def tell(photo: P, name: Path, version: str, made: Told | str) -> None:
            with lock:
                if manifest:
                    manifest.add(photo, name, version, made if isinstance(made, str) else None)
                if isinstance(made, str):
                    outcome.failed[str(photo)] = made
                else:
                    outcome.done += 1
                    if made.is_empty:
                        outcome.empty.append(str(photo))
                if report:
                    report(photo, cutter.paths(photo, name), made)
                advance()

        try:
            if todo:
                (work or in_threads)(cutter, todo, workers, tell)
        except KeyboardInterrupt:
            goes_on = "; give the same command again to continue" if cutter.into_folder else ""
            raise KeyboardInterrupt(f"interrupted: {outcome.done} of {len(photos)} photos are done{goes_on}.") from None
    return outcome


def in_threads(cutter: Cutter, photos: Sequence[Named[P]], workers: int, tell: Tell[P]) -> None:
    """Cut out photos, `workers` at a time in as many threads or more.

    Decoding, nets, and encoding all leave Python's lock to the other threads. Large photos wait for each other where
    memory is short, and what ran out of it is tried once more alone. Where photos or results are in a store, further
    threads read photos ahead and write results, so that nobody waits for the store.

    Args:
        tell: is called from these threads.

    Raises:
        UserError: a result cannot be written to a folder.
    """
    is_far = isinstance(photos[0][0], RemoteFile) or isinstance(cutter.output, RemoteFile)
    threads = workers * THREADS_A_WORKER if is_far else workers
    memory, turns, again = Memory(), Semaphore(workers), list[Named[P]]()
    with ThreadPoolExecutor(threads) as pool:

        def work(photo: P, name: Path, alone: bool = False) -> None:
            before = version(photo)
            made = _one(cutter, photo, name, memory, turns)
            if isinstance(made, OutOfMemory) and not alone and workers > 1:
                again.append((photo, name))
            else:
                tell(photo, name, before, made)

        running: set[Future] = set()
        try:
            for photo, name in photos:
                running.add(pool.submit(work, photo, name))
                if len(running) > 2 * threads:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    _ = [future.result() for future in finished]  # which raises what ended one
            _ = [future.result() for future in running]
            for photo, name in again:  # one after the other there may be room
                work(photo, name, alone=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def earlier_results(sources: Sequence[str | Path], output: Path | None = None) -> list[Path]:
    """The folders of results, of this command and of earlier ones, that are below the folders to look for photos in."""
    made = {note.parent for source in sources for note in user_path(source).rglob(NOTE)}
    return [folder / kind for folder in sorted(made | {output} if output else made) for kind in WRITTEN]


def default_workers(photos: int) -> int:
    """One a core and at most eight, where there are so many photos."""
    if photos == 1:
        return 1
    from loky import cpu_count  # a tenth of a second, which one photo does not need

    return min(cpu_count(), MAX_WORKERS, photos)


def _one(cutter: Cutter, photo: Place, name: Path, memory: "Memory", turns: Semaphore) -> Made | str:
    """What was made and written of a photo, or why there is nothing."""
    data: Path | Loaded
    if isinstance(photo, RemoteFile):
        try:
            data = load(photo)  # before it is its turn
        except UserError as error:
            return str(error)
    else:
        data, before = photo, state(photo)
    with turns, memory.for_photo(data, cutter.bytes_a_pixel):
        made = attempt(cutter, data)
    if isinstance(made, str):
        return made
    if isinstance(photo, Path) and photo.is_file() and state(photo) != before:  # a result would look newer than it is
        return f"{photo} has changed while it was cut out; run the command again."
    try:
        write_files(cutter.paths(photo, name), made.files)
    except NotWritten as error:  # what a store does not take it may take later
        return str(error)
    except UserError as error:
        if getattr(error.__cause__, "errno", None) != errno.ENAMETOOLONG:
            raise  # what one cannot write, others cannot, either
        return f"{photo}: its name is too long for those of its results; rename it."
    return made


def version(photo: Place) -> str:
    """What a manifest knows a photo's content by: its size and a time, or what the store's listing has."""
    return photo.version if isinstance(photo, RemoteFile) else "-".join(map(str, state(photo)))


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
    def for_photo(self, photo: Path | Loaded, bytes_a_pixel: int) -> Iterator[None]:
        """Wait until there is room for it, and keep that."""
        wanted = 0
        if isinstance(photo, Loaded) or photo.is_file():  # a pipe can be read only once
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


def _not_done(cutter: Cutter, source: str, photos: Sequence[Named[P]]) -> list[Named[P]]:
    since = _since(cutter, source)
    return [(photo, name) for photo, name in photos if not _is_done(cutter, photo, name, since)]


def _since(cutter: Cutter, source: str) -> int:
    """When results of the same settings began to be written to the folder, in ns; results from before are others'."""
    assert isinstance(cutter.output, Path)
    note, settings = cutter.output / NOTE, cutter.settings(source)
    try:
        is_same = note.read_bytes() == settings.encode()
    except OSError:  # there is none, or none that can be read
        is_same = False
    if not is_same:
        write_whole(note, lambda path: path.write_text(settings))
    return note.stat().st_mtime_ns


def _is_done(cutter: Cutter, photo: Place, name: Path, since: int) -> bool:
    assert isinstance(photo, Path)
    try:
        stat = photo.stat()
        # A photo that was moved here has an old time of writing, but not of change.
        newest = max(since, stat.st_mtime_ns, stat.st_ctime_ns)
        return all(path.stat().st_mtime_ns >= newest for path in cutter.paths(photo, name) if isinstance(path, Path))
    except OSError:
        return False
