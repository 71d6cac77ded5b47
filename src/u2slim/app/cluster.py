"""`u2slim cut --ray`: the same work as in threads, shared out by Ray among processes on one machine or many.

Each process (Ray calls it an actor) has one net, and cuts out some photos after others. What it writes is whole or
absent, and the same whoever writes it. So where a process or a machine ends, Ray has another one do its photos again.
"""

import argparse
import logging
import math
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from u2slim.app.options import open_cutter
from u2slim.cutout.batch import Named, Tell, Told, in_threads, version
from u2slim.cutout.cutter import Cutter
from u2slim.errors import UserError, missing_extra
from u2slim.remote import Place, reason

TOGETHER = 32  # photos that a process is given at once, and that are done again where it ends
RETRIES = 3  # where their process ends
# Ray asks nobody before it tells its makers of its use, and says much that is no news.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
FATAL = -1  # the number of what ends all the work
# What a process knows of a photo that it has cut out: its number, its version, why not, facts about it, if it is empty.
Row = tuple[int, str, str | None, dict[str, object], bool]


@dataclass(frozen=True)
class Facts:
    """What a process has told of a photo."""

    told: dict[str, object]
    is_empty: bool

    def facts(self) -> dict[str, object]:
        return self.told


def on_ray(
    options: argparse.Namespace, cutter: Cutter, photos: Sequence[Named[Place]], workers: int, tell: Tell[Place]
) -> None:
    """Cut out photos in `--workers` processes, or in as many as there are processors for.

    Args:
        options: of `u2slim cut`.
        cutter: what the options make here.
        workers: as `in_threads` has it; here the cluster says it.
        tell: is told of each photo.

    Raises:
        UserError: Ray is not installed or not there, or a process cannot open the net or write results.
    """
    # Ray's threads print what has happened to processes, which would be among the lines of --json.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), _started(options) as ray:
        left = dict(enumerate(photos))
        for together in (TOGETHER, 1):  # a photo that ends its process takes others with it, but not alone
            for number, before, why_not, facts, is_empty in _rows(ray, options, cutter.output, left, together):
                if number == FATAL:
                    raise UserError(why_not)
                if number in left:
                    photo, name = left.pop(number)
                    tell(photo, name, before, Facts(facts, is_empty) if why_not is None else why_not)
            if not left:
                return
        for photo, name in left.values():
            tell(photo, name, version(photo), f"{photo}: its process ended, perhaps out of memory.")


@contextmanager
def _started(options: argparse.Namespace) -> Iterator[Any]:
    """The module `ray`, connected to its cluster until the end."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise missing_extra("--ray", "ray[data]", "ray") from error
    own: dict[str, object] = {"include_dashboard": False} if options.ray == "local" else {}
    if options.ray == "local" and options.workers:
        own["num_cpus"] = options.workers * _processors(options)
    try:
        with warnings.catch_warnings(action="ignore"):
            ray.init(options.ray, log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except Exception as error:  # a cluster that is not there, or is of another version
        raise UserError(
            f"--ray {options.ray} cannot be used ({reason(error)}); give local, auto, or a cluster's address."
        ) from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # which has a handler of its own
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_errored_blocks = -1  # their photos are tried alone
    try:
        yield ray
    finally:
        ray.shutdown()


def _rows(
    ray: Any,
    options: argparse.Namespace,
    output: Place | None,
    photos: Mapping[int, Named[Place]],
    together: int,
) -> Iterator[Row]:
    """What becomes of the photos, in any order; nothing of those whose process ended at each try."""
    each = _processors(options)
    workers = options.workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // each)
    plain = copy(options)
    plain.threads = each
    del plain.run, plain.shard
    items = [pickle.dumps((number, photo, name)) for number, (photo, name) in photos.items()]
    blocks = math.ceil(len(items) / together)
    with warnings.catch_warnings(action="ignore"):  # of `max_task_retries`, for which Ray 2.60 has no other place
        rows = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
            Process,
            fn_constructor_args=(plain, output, len(photos), str(Path.cwd())),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                size=min(workers, blocks), max_tasks_in_flight_per_actor=1 if together == 1 else None
            ),
            num_cpus=each,
            num_gpus=1 if (options.device or "").startswith("cuda") else None,
            max_task_retries=RETRIES,
        )
    try:
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from map(pickle.loads, batch["item"].to_pylist())
    except (RuntimeError, OSError, ray.exceptions.RayError) as error:
        raise UserError(f"Ray ended the work ({reason(error)}); give the same command again to continue.") from error


def _processors(options: argparse.Namespace) -> int:
    """How many of them a process's net takes, of the threads that all together may take."""
    return max(1, options.threads // (options.workers or 1)) if options.threads else 1


class Process:
    """What Ray makes in each process: the net, opened once for all photos that come.

    Args:
        options: of `u2slim cut`.
        output: the folder of results.
        photos: how many there are in all, by which the runtime is chosen.
        folder: that names of files are meant from, where this machine has it.
    """

    def __init__(self, options: argparse.Namespace, output: Place | None, photos: int, folder: str):
        with suppress(OSError):
            os.chdir(folder)
        warnings.filterwarnings("ignore", module="PIL")
        self.cutter, self.error = None, ""
        try:
            self.cutter = open_cutter(options, output, False, photos, 1)
        except Exception as error:  # a process that cannot begin would be started again and again
            self.error = f"a process of Ray's cannot begin: {error}"

    def __call__(self, batch: Any) -> Any:
        """The rows of some photos, of which each is cut out and written."""
        import pyarrow

        rows: list[Row] = []
        if self.cutter is None:
            rows.append((FATAL, "", self.error, {}, False))
        else:
            given = [pickle.loads(item) for item in batch["item"].to_pylist()]
            numbers = {name: number for number, _, name in given}

            def tell(photo: Place, name: Path, before: str, made: Told | str) -> None:
                if isinstance(made, str):
                    rows.append((numbers[name], before, made, {}, False))
                else:
                    rows.append((numbers[name], before, None, made.facts(), made.is_empty))

            try:
                in_threads(self.cutter, [(photo, name) for _, photo, name in given], 1, tell)
            except UserError as error:
                rows.append((FATAL, "", str(error), {}, False))
        return pyarrow.table({"item": pyarrow.array(map(pickle.dumps, rows), pyarrow.binary())})
