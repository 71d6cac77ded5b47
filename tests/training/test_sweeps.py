"""Sweeps, and runs that continue by themselves: what a user finds in the folders afterwards."""

import csv
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.conftest import REPO, THREADS, TINY, children, run, wait_for, write_set
from u2slim.cli import prepare_hydra
from u2slim.errors import UserError
from u2slim.training.resume import finished_before, finished_scores

COMMON = ("init=random", *TINY, "data.val_count=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder to start trainings in, with data enough for two processes."""
    folder = tmp_path_factory.mktemp("sweeps")
    write_set(folder / "data" / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 20)
    return folder


def table(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_in_a_sweep_over_two_processes_each_job_has_one_of_everything(place, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    start = place / "ddp"
    shutil.copytree(place / "data", start / "data")
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.max_steps=2", "model=standard,dwsep")
    wandb = ("logger=wandb", "logger.wandb.offline=true", "+logger.wandb.notes=by hand")
    printed = run("train.py", "-m", *COMMON, *ddp, *wandb, "hydra.sweep.dir='a sweep, of two'", cwd=start)
    sweep = start / "a sweep, of two"
    assert f"2 of 2 jobs finished: sweep.md, sweep.csv, runs.png, runs.html in {sweep}" in printed
    assert {path.name for path in start.iterdir()} == {"data", sweep.name}
    assert {path.name for path in sweep.iterdir()} == {
        *("0", "1", "multirun.yaml", "sweep.md", "sweep.csv", "runs.png", "runs.html")
    }
    for job, conv in (("0", "StandardConv"), ("1", "DepthwiseSeparableConv")):
        model = torch.load(sweep / job / "checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]["model"]
        assert model["conv"]["_target_"] == f"u2slim.models.{conv}"
        saved = {path.name for path in (sweep / job / "checkpoints").iterdir()}
        assert "last.ckpt" in saved <= {"last.ckpt", "step_000002.ckpt"}
        assert [path.name for path in (sweep / job / "csv").iterdir()] == ["version_0"]
        assert len(list((sweep / job / "wandb").glob("offline-run-*"))) == 1
        assert json.loads((sweep / job / "metrics.json").read_text())["step"] == 2
        assert yaml.safe_load((sweep / job / "config.yaml").read_text())["logger"]["wandb"]["notes"] == "by hand"
    rows = table(sweep)
    assert [(row["settings"], row["status"], row["step"]) for row in rows] == [
        ("model=standard", "finished", "2"),
        ("model=dwsep", "finished", "2"),
    ]
    assert rows[0]["val/MAE"] != rows[1]["val/MAE"]


@pytest.mark.slow
def test_a_failed_job_is_named_and_a_sweep_started_again_does_only_what_is_left(place):
    command = ("train.py", "-m", *COMMON, "data.root=data,later", "trainer.max_steps=2", "hydra.sweep.dir=left")
    printed = run(*command, cwd=place, ok=False)
    assert "job 1 (data.root=later) failed: No data under data.root=later. Expected" in printed
    assert "1 of 2 jobs finished" in printed
    assert "Traceback" not in printed
    assert [row["status"] for row in table(place / "left")] == ["finished", "failed"]
    before = (place / "left/0/checkpoints/last.ckpt").stat().st_mtime_ns

    printed = run(*command, "resume=auto", "optimizer.lr=1", cwd=place, ok=False)
    assert "left/0 holds a run of another config (another optimizer.lr)" in printed
    (place / "later").symlink_to(place / "data")
    printed = run(*command, "resume=auto", cwd=place)
    assert "job 0 is finished: trained to step 2" in printed and "2 of 2 jobs finished" in printed
    assert (place / "left/0/checkpoints/last.ckpt").stat().st_mtime_ns == before
    assert [row["status"] for row in table(place / "left")] == ["finished", "finished"]


@pytest.mark.slow
def test_a_killed_job_does_not_sink_the_rest_and_ctrl_c_ends_all(place):
    options = (*COMMON, "seed=1,2", "callbacks.checkpoint.every_n_train_steps=1", "hydra.sweep.dir=killed")
    command = [sys.executable, str(REPO / "train.py"), "-m", *options, "trainer.max_steps=5000"]
    sweep, log = place / "killed", place / "killed.txt"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=place, env=os.environ | THREADS, stdout=file, stderr=file)
    wait_for(lambda: list(sweep.glob("0/checkpoints/step_*.ckpt")))
    os.kill(*children(process.pid), signal.SIGKILL)
    wait_for(lambda: list(sweep.glob("1/checkpoints/step_*.ckpt")))
    (job,) = children(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    wait_for(lambda: not Path(f"/proc/{job}").exists())
    assert [(row["status"], row["reason"]) for row in table(sweep)] == [
        ("failed", "killed by SIGKILL"),
        ("failed", "stopped together with the sweep"),
    ], log.read_text()
    printed = run("train.py", "-m", *options, "trainer.max_steps=1", "resume=auto", cwd=place)
    assert all(f"resuming from {sweep}/{job}/checkpoints/" in printed for job in "01")
    assert "2 of 2 jobs finished" in printed


def test_the_same_command_goes_on_where_it_was_stopped_until_it_is_finished(place):
    start = place / "queued"
    shutil.copytree(place / "data", start / "data")
    command = ("train.py", *COMMON, "trainer.max_steps=2", "callbacks.checkpoint.every_n_train_steps=1", "resume=auto")
    assert "no run to continue from; starting a new one" in run(*command, cwd=start)
    (first,) = (start / "outputs/train").iterdir()
    whole = torch.load(first / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    # As a machine leaves it that stops while the second checkpoint is written.
    for name in ("metrics.json", "checkpoints/last.ckpt"):
        (first / name).unlink()
    (first / "checkpoints/step_000002.ckpt").write_bytes(b"PK")
    (first / "wandb_id").write_text("abc")

    printed = run(*command, "trainer.accelerator=cpu", cwd=start)
    assert "Continuing from the one before" in printed and f"resuming from {first}/checkpoints/step_000001" in printed
    (second,) = set((start / "outputs/train").iterdir()) - {first}
    resumed = torch.load(second / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert (second / "wandb_id").read_text() == "abc"

    assert f"{second} is finished: trained to step 2" in run(*command, "data.num_workers=1", cwd=start)
    (third,) = set((start / "outputs/train").iterdir()) - {first, second}
    assert not (third / "checkpoints").exists()


def test_a_run_that_a_callback_has_ended_is_finished_and_one_of_fewer_steps_is_not(tmp_path):
    cfg, more = (OmegaConf.create({"trainer": {"max_steps": steps}}) for steps in (100, 200))
    timed = OmegaConf.create({"trainer": {"max_steps": 100, "max_time": "00:01:00:00"}})
    (tmp_path / "metrics.json").write_text('{"step": 80, "max_steps": 100}')
    assert finished_scores(cfg, tmp_path)["step"] == 80
    assert finished_scores(more, tmp_path) is None and finished_scores(timed, tmp_path) is None
    (tmp_path / "metrics.json").write_text('{"step": 200, "max_steps": 200}')
    assert finished_scores(more, tmp_path)["step"] == 200


def test_wrong_ways_to_resume_are_refused_in_a_sentence(tmp_path):
    for overrides, sentence in (
        (["resume=yes"], "resume=yes is not known; give auto"),
        (["resume=auto", "ckpt_path=last"], "resume=auto finds the checkpoint itself; leave out ckpt_path"),
    ):
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"), pytest.raises(UserError, match=sentence):
            finished_before(compose("train", overrides), tmp_path)


@pytest.mark.slow
def test_a_search_runs_its_trials_at_once_and_again_without_training(place):
    pytest.importorskip("submitit", reason="hydra-submitit-launcher absent: pip install -e .[sweep]")
    pytest.importorskip("optuna", reason="hydra-optuna-sweeper absent: pip install -e .[sweep]")
    search = ("experiment=search", *COMMON, "data=duts", "trainer.max_steps=2", "hydra.sweep.dir=search")
    at_once = ("hydra/launcher=submitit_local", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2")
    printed = run("train.py", "-m", *search, *at_once, cwd=place)
    rows = table(place / "search")
    assert [row["status"] for row in rows] == ["finished", "finished"]
    best = max(float(row["val/maxF"]) for row in rows)
    assert f"Best value: {best}" in printed
    for job, row in enumerate(rows):
        config = yaml.safe_load((place / f"search/{job}/config.yaml").read_text())
        assert f"optimizer.lr={config['optimizer']['lr']}" in row["settings"]
        assert 1e-3 <= config["optimizer"]["lr"] <= 3e-2
        assert (config["loss"]["weights"] or [1])[0] in (1, 3, 6)  # null: all count alike
    written = [(place / f"search/{job}/metrics.json").stat().st_mtime_ns for job in (0, 1)]
    assert f"Best value: {best}" in run("train.py", "-m", *search, *at_once, "resume=auto", cwd=place)
    assert [(place / f"search/{job}/metrics.json").stat().st_mtime_ns for job in (0, 1)] == written


@pytest.mark.slow
def test_an_interrupted_search_goes_on_by_the_same_command(place):
    pytest.importorskip("optuna", reason="hydra-optuna-sweeper absent: pip install -e .[sweep]")
    start = place / "searching"
    shutil.copytree(place / "data", start / "data")
    search = ("-m", "experiment=search", *COMMON, "data=duts", "callbacks.checkpoint.every_n_train_steps=1")
    search += ("hydra.sweeper.n_trials=2", "hydra.sweeper.sampler.n_startup_trials=1", "trainer.max_steps=8")
    sweep, log = start / "outputs/search", start / "log.txt"
    with log.open("w") as file:
        command = (sys.executable, str(REPO / "train.py"), *search)
        process = subprocess.Popen(command, cwd=start, env=os.environ | THREADS, stdout=file, stderr=file)
    wait_for(lambda: list(sweep.glob("1/checkpoints/step_*.ckpt")))  # the first has ended, the second has begun
    (job,) = children(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not Path(f"/proc/{job}").exists())
    settings = [yaml.safe_load((sweep / f"{job}/.hydra/overrides.yaml").read_text()) for job in (0, 1)]
    first = (sweep / "0/metrics.json").stat().st_mtime_ns

    printed = run("train.py", *search, "hydra.sweeper.n_trials=3", cwd=start)
    assert "job 0 is finished" in printed and f"resuming from {sweep}/1/checkpoints/" in printed
    assert "3 of 3 jobs finished" in printed and (sweep / "0/metrics.json").stat().st_mtime_ns == first
    assert [yaml.safe_load((sweep / f"{job}/.hydra/overrides.yaml").read_text()) for job in (0, 1)] == settings
    rates = [yaml.safe_load((sweep / f"{job}/config.yaml").read_text())["optimizer"]["lr"] for job in range(3)]
    assert len(set(rates)) == 3


def test_trials_that_a_folder_holds_are_proposed_again_whatever_became_of_them(tmp_path):
    optuna = pytest.importorskip("optuna", reason="hydra-optuna-sweeper absent: pip install -e .[sweep]")
    from u2slim.training.search import RecordedTPESampler

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    choices = ["[1,1]", "[3,1]"]

    def propose(folder: Path | None, scores: list[float | None], write: bool = False) -> list[dict]:
        study = optuna.create_study(sampler=RecordedTPESampler(folder, seed=0, n_startup_trials=2))
        for job, score in enumerate(scores):
            trial = study.ask()
            trial.suggest_float("optimizer.lr", 1e-3, 3e-2, log=True)
            trial.suggest_categorical("loss.weights", choices)
            if write:
                (tmp_path / f"{job}/.hydra").mkdir(parents=True)
                lines = [f"{name}={value}" for name, value in trial.params.items()]
                (tmp_path / f"{job}/.hydra/overrides.yaml").write_text(yaml.safe_dump(["seed=1", *lines]))
            states = optuna.trial.TrialState
            study.tell(trial, score, states.FAIL if score is None else states.COMPLETE)
        return [trial.params for trial in study.trials]

    first = propose(None, [0.5, None, 0.7, 0.1], write=True)
    later = [0.5, 0.9, 0.7, 0.1, 0.2]  # the second trial, which had failed, has a score
    assert propose(None, later)[:4] != first, "by the seed alone they would be others"
    again = propose(tmp_path, later)
    assert again[:4] == first and len(again) == 5
    choices[:] = ["[1,1]", "[6,1]"]  # what is no choice any more is not proposed
    assert {trial["loss.weights"] for trial in propose(tmp_path, later)} <= set(choices)


@pytest.mark.slow
def test_ray_runs_the_jobs_or_is_asked_for_in_a_sentence(place):
    sweep = ("train.py", "-m", *COMMON, "seed=1,2", "trainer.max_steps=1", "hydra/launcher=ray", "hydra.sweep.dir=ray")
    if importlib.util.find_spec("ray") is None:
        printed = run(*sweep, cwd=place, ok=False)
        assert "needs hydra-ray-launcher" in printed and "pip install -e '.[sweep]'" in printed
        assert "Traceback" not in printed
        pytest.skip("hydra-ray-launcher absent: pip install -e .[sweep]")
    assert "2 of 2 jobs finished" in run(*sweep, cwd=place)


def test_the_presets_set_what_the_launchers_know(place):
    plugin = pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher.config",
        reason="hydra-submitit-launcher absent: pip install -e .[sweep]",
    )
    prepare_hydra()
    for launcher, known in (("submitit_local", plugin.LocalQueueConf), ("submitit_slurm", plugin.SlurmQueueConf)):
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            cfg = compose("train", [f"hydra/launcher={launcher}"], return_hydra_config=True).hydra
        assert set(cfg.launcher) <= {field.name for field in dataclasses.fields(known)}
        assert cfg.launcher._target_ == known._target_
        assert cfg.launcher.timeout_min >= 24 * 60, "the plugin ends a job after an hour"
