"""Sweeps of train.py: each job is a process of its own, whatever launches it, and one table and plot end them."""

import atexit
import importlib
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from u2slim.cli import output_dir, write_json
from u2slim.errors import UserError, missing_extra
from u2slim.overrides import override
from u2slim.processes import when_parent_ends
from u2slim.repository import REPOSITORY, TRAIN
from u2slim.training.resume import finished_scores, refuse_another_config

log = logging.getLogger(__name__)

JOB_FILE = "job.json"
RECORDED = "u2slim.training.search.RecordedTPESampler"  # not imported, as optuna may not be there
SWEEP = "U2SLIM_SWEEP"  # the process that waits for a job tells it its id, as it may be gone when the job asks
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OF_THE_JOB = re.compile(r"[+~]*hydra[./](job|job_logging|verbose|searchpath)\b")
_ERROR_LINE = re.compile(r"^(\S+ \S+) (?:ERROR|CRITICAL) \S+ (.+)$", re.MULTILINE)


def run_job(cfg: DictConfig) -> float | None:
    """Train one job of a sweep by a command line of its own, in the folder that the sweep gave it.

    Returns:
        The optimised metric; None for a job that failed or ended without one: optuna's sweeper counts such a trial as
        failed and continues, as it would not after an exception or a NaN.
    """
    folder, number = output_dir(), HydraConfig.get().job.num
    again = cfg.resume is not None or cfg.ckpt_path == "last" or _queued_again(folder)
    job = {"job": number, "status": "failed", "reason": "", "minutes": _read(folder / JOB_FILE).get("minutes", 0)}
    if cfg.find_lr:
        raise UserError("find_lr=true is for one run, not for the jobs of a sweep.")
    if os.environ.get("SLURM_PROCID", "0") != "0":  # a further process of a job that the first one reports
        run_process(command(folder, again), HydraConfig.get().runtime.cwd, dict(os.environ))
        return None
    start = time.monotonic()
    scores: dict[str, Any] = {}
    try:
        scores = (again and _finished(cfg, folder)) or {}
        if scores:
            log.info("job %d is finished: trained to step %d", number, scores["step"])
            job["status"] = "finished"
        else:
            write_json(folder / JOB_FILE, job | {"status": "running"})
            job["reason"] = "stopped together with the sweep"
            job["reason"] = _train(folder, again)
            if not job["reason"]:
                scores, job["status"] = _read(folder / "metrics.json"), "finished"
    except UserError as error:
        job["reason"] = str(error)
    finally:
        job["minutes"] = round(job["minutes"] + (time.monotonic() - start) / 60, 2)
        write_json(folder / JOB_FILE, job)
    if job["reason"]:
        log.error("job %d failed: %s", number, job["reason"])
    # upstream: https://github.com/hydra-ecosystem/hydra/issues/2237; drop when hydra-optuna-sweeper > 1.3.0
    score = scores.get(cfg.optimized_metric)
    return score if score is not None and math.isfinite(score) else None


def _finished(cfg: DictConfig, folder: Path) -> dict | None:
    refuse_another_config(cfg, folder)
    return finished_scores(cfg, folder)


def _queued_again(folder: Path) -> bool:
    # Slurm counts how often it starts a job again, after its time limit or to make room.
    return "SLURM_RESTART_COUNT" in os.environ and any(folder.glob("checkpoints/*.ckpt"))


def _train(folder: Path, again: bool) -> str:
    """Run the job; returns why it failed, empty where it did not."""
    logs = {path: path.stat().st_size for path in folder.glob("*.log")}
    hydra = HydraConfig.get()
    env = {"WANDB_RUN_GROUP": "/".join(Path(hydra.sweep.dir).parts[-2:])} | os.environ
    env |= _own_gpu_first(hydra.job.num) | {SWEEP: str(os.getpid())}
    code = run_process(command(folder, again), hydra.runtime.cwd, env)
    if code == 0:
        return "" if (folder / "metrics.json").is_file() else "stopped before its last step"
    how = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
    # Of what this run's processes appended to their logs the first is the cause: the others report that one is gone.
    errors = sorted(line for path in folder.glob("*.log") for line in _errors(path, logs.get(path, 0)))
    return f"{errors[0][1]} [{how}]" if errors else how


def _errors(path: Path, start: int) -> list[tuple[str, str]]:
    """Time and text of the errors in a log file from a byte on."""
    with path.open("rb") as file:
        file.seek(start)
        return _ERROR_LINE.findall(file.read().decode(errors="replace"))


def command(folder: Path, again: bool) -> list[str]:
    """The command line that trains the job which Hydra has composed, as a single run in `folder`."""
    hydra = HydraConfig.get()
    places = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    return [
        *(sys.executable, str(TRAIN), "--config-name", hydra.job.config_name),
        *(part for place in places for part in ("--config-dir", place)),
        *hydra.overrides.task,
        *filter(_OF_THE_JOB.match, hydra.overrides.hydra),
        *(("ckpt_path=null", "resume=auto") if again else ()),
        *(
            override("hydra.run.dir", folder),
            f"hydra.job.num={hydra.job.num}",
            "hydra.mode=RUN",
            "hydra.output_subdir=null",
        ),
    ]


def _own_gpu_first(number: int) -> dict[str, str]:
    """Jobs that one machine runs at once see all its GPUs, but each begins to count at another one."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if os.environ.get("SUBMITIT_EXECUTOR") != "local" or len(gpus) == 1:
        return {}
    first = number % len(gpus)
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[first:] + gpus[:first])}


def run_process(command: list[str], cwd: str, env: dict[str, str]) -> int:
    """Run a command to its end; a signal to end reaches it first, and this process when it has ended.

    Raises:
        KeyboardInterrupt, SystemExit: such a signal has come.
    """
    caught: list[int] = []
    process: subprocess.Popen | None = None

    def pass_on(number: int, _: Any) -> None:
        caught.append(number)
        if process:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        # In a session of its own, so that Ctrl-C does not reach it twice and what it leaves behind can be ended.
        process = subprocess.Popen(command, cwd=cwd, env=env, start_new_session=True)
        if caught:
            process.terminate()
        process.wait()
    except BaseException:  # raised in a handler of the launcher's, at a time limit
        if process:
            process.terminate()
            process.wait()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if process and process.returncode != 0:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
    if caught:
        raise KeyboardInterrupt if caught[0] == signal.SIGINT else SystemExit(128 + caught[0])
    return process.returncode


def stop_with_sweep() -> None:
    """Let a job of a sweep not outlive the process that waits for it, and end when that one says so."""
    # Taken out, so that the processes which this one may start do not take the sweep's for their parent.
    if sweep := os.environ.pop(SWEEP, None):
        when_parent_ends(int(sweep), lambda: os.kill(os.getpid(), signal.SIGTERM))
        # Slurm announces a time limit to all processes; the waiting one answers for both, with SIGTERM.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


class SweepCallback(Callback):
    """Sees that a sweep's plugins are there, and ends a sweep of train.py with its table and plot."""

    def __init__(self):
        self.folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        for part in (config.hydra.launcher, config.hydra.sweeper):
            try:
                importlib.import_module(part._target_.rpartition(".")[0])
            except ImportError:
                sys.exit(str(missing_extra(part._target_, part._target_.split(".")[1].replace("_", "-"), "sweep")))
        going_on = config.get("resume") == "auto" or config.get("ckpt_path") == "last"
        if going_on and config.hydra.sweeper.get("sampler", {}).get("_target_") == RECORDED:
            with open_dict(config), read_write(config):
                config.hydra.sweeper.sampler.folder = config.hydra.sweep.dir
        # A launcher's worker starts somewhere else, and has to find `u2slim`.
        os.environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(REPOSITORY / "src"), os.environ.get("PYTHONPATH")))
        )
        logging.getLogger("alembic").setLevel(logging.WARNING)  # optuna's, of which Hydra would print a page
        if "optimized_metric" in config:
            self.folder = Path(config.hydra.sweep.dir).absolute()
            # upstream: not reported as far as known (seen with hydra-core 1.3.8); drop when it is called there, too
            atexit.register(self.close)  # where a launcher raises, on_multirun_end is not called

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if not self.close():
            sys.exit(1)

    def close(self) -> bool:
        """Write and print what became of the jobs, once; returns whether all are finished."""
        folder, self.folder = self.folder, None
        if folder is None or not folder.is_dir():
            return True
        from u2slim.report.sweep import report  # draws, which no single run does

        return report(folder)
