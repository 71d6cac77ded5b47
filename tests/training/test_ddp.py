"""Two processes train as one does on the same global batch, write one run, and end together."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.conftest import REPO, THREADS, TINY, children, run, wait_for, write_set

# BatchNorm with fixed statistics, as only these do not depend on how a batch is divided; SGD, as Adam divides by the
# gradient and makes rounding large where that is almost zero.
OPTIONS = (
    "model=dwsep",
    "init=random",
    *TINY,
    "task.freeze_batchnorm=true",
    "optimizer=sgd",
    "data.train=[duts_tr]",
    "data.val=[duts_te]",
    "data.batch_size=4",
    "trainer.max_steps=3",
    "callbacks.checkpoint.every_n_train_steps=1",
)
DDP = ("trainer=ddp", "trainer.accelerator=cpu", "data.val_batch_size=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data root, and in `one` a run of one process."""
    folder = tmp_path_factory.mktemp("ddp")
    write_set(folder / "data/DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 10)
    # Validated at once, and in DDP in batches of 2 and 1, and of 2.
    write_set(folder / "data/DUTS-TE", "DUTS-TE-Image", "DUTS-TE-Mask", 5, first=10)
    run("train.py", *OPTIONS, "hydra.run.dir=one", cwd=folder)
    return folder


def test_two_processes_train_validate_and_write_as_one(folder):
    printed = run("train.py", *OPTIONS, *DDP, "hydra.run.dir=two", cwd=folder)
    assert_as_one(folder / "one", folder / "two")
    assert printed.count("training on 10 images") == printed.count("trained u2net") == 1
    assert "sync_dist" not in printed


@pytest.mark.slow
def test_two_nodes_train_validate_and_write_as_one(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ("--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}")
    job = (str(REPO / "train.py"), *OPTIONS, *DDP, "trainer.num_nodes=2", "trainer.devices=1", "hydra.run.dir=nodes")
    second = [sys.executable, "-m", "torch.distributed.run", *torchrun, "--node_rank=1", *job]
    with subprocess.Popen(second, cwd=folder, env=os.environ | THREADS) as process:
        run("torch.distributed.run", *torchrun, "--node_rank=0", *job, cwd=folder)
    assert process.returncode == 0
    assert_as_one(folder / "one", folder / "nodes")


def assert_as_one(one: Path, other: Path) -> None:
    first, last = ([checkpoint(d, step) for d in (one, other)] for step in (1, 3))
    gradients = [state["optimizer_states"][0]["state"] for state in first]  # so far the momentum is the gradient
    for index, state in gradients[0].items():
        assert_close(state["momentum_buffer"], gradients[1][index]["momentum_buffer"], 1e-4)
    for name, tensor in last[0]["state_dict"].items():
        assert_close(tensor, last[1]["state_dict"][name], 1e-3)

    steps = [[float(row["train/loss"]) for row in rows(d) if row["train/loss"]] for d in (one, other)]
    assert len(steps[0]) == 3 and steps[1] == pytest.approx(steps[0], rel=1e-5), "the mean over the global batch"

    scores = [[row for row in rows(d) if row["val/loss"]] for d in (one, other)]
    assert len(scores[0]) == len(scores[1]) == 3
    for row, same in zip(*scores, strict=True):
        validated = {name: float(value) for name, value in row.items() if name.startswith("val/")}
        assert {name: float(same[name]) for name in validated} == pytest.approx(validated, rel=1e-5, abs=1e-5)
    assert json.loads((other / "metrics.json").read_text())["val/loss"] == pytest.approx(validated["val/loss"], 1e-5)

    assert files(other) == files(one)


def checkpoint(run_folder: Path, step: int) -> dict:
    return torch.load(run_folder / f"checkpoints/step_{step:06d}.ckpt", weights_only=True)


def assert_close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> None:
    """To a tolerance relative to the tensor's largest number, or to rounding beside 1, as some gradients cancel."""
    assert (one - other).abs().max() <= tolerance * one.abs().max() + 1e-7


def rows(run_folder: Path) -> list[dict]:
    with (run_folder / "csv/version_0/metrics.csv").open() as file:
        return list(csv.DictReader(file))


def files(run_folder: Path) -> list[str]:
    return sorted(path.relative_to(run_folder).as_posix() for path in run_folder.rglob("*"))


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_the_others_and_leaves_whole_checkpoints(folder, rank):
    home = folder / f"killed{rank}"
    command = [sys.executable, str(REPO / "train.py"), *OPTIONS, *DDP, "trainer.max_steps=1000"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, f"hydra.run.dir={home}"], cwd=folder, env=os.environ | THREADS, **silent) as first:
        wait_for(lambda: (home / "checkpoints/step_000003.ckpt").exists() or first.poll() is not None, 120)
        (second,) = children(first.pid)
        os.kill((first.pid, second)[rank], signal.SIGKILL)
        wait_for(lambda: first.poll() is not None and not runs(second), 60)
    assert first.returncode != 0
    # Every five seconds Lightning looks for lost processes and kills the rest, which may come before the sentence.
    killed_by_lightning = first.returncode < 0
    said = "The connection to another process of this run broke" in (home / "train.log").read_text()
    assert said or killed_by_lightning
    saved = list((home / "checkpoints").glob("[!.]*.ckpt"))
    assert len(saved) >= 4
    for path in saved:
        assert torch.load(path, weights_only=True)["global_step"] >= 1, path


@pytest.mark.slow
def test_a_process_whose_launcher_is_killed_at_the_start_does_not_wait_for_it(folder):
    command = [sys.executable, str(REPO / "train.py"), *OPTIONS, *DDP, "hydra.run.dir=early"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=folder, env=os.environ | THREADS, **silent) as first:
        wait_for(lambda: children(first.pid) or first.poll() is not None, 120)
        (second,) = children(first.pid)
        first.kill()
    wait_for(lambda: not runs(second), 60)


def runs(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize(
    ("command", "overrides", "sentence"),
    [
        (["train.py"], ["data.val_count=1"], "1 validation images are not enough for 2 processes"),
        pytest.param(
            ["torch.distributed.run", "--standalone", "--nproc_per_node=2", str(REPO / "train.py")],
            [],
            "give all the same hydra.run.dir=DIR",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_several_processes_cannot_do_ends_in_a_sentence(folder, command, overrides, sentence):
    printed = run(*command, *OPTIONS, *DDP, *overrides, cwd=folder, ok=False)
    assert sentence in printed
    assert "hydra/_internal" not in printed, "a stack trace instead of a sentence"
