"""What an offline run leaves for W&B to group, filter and draw by."""

import json
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import TINY, run, write_set
from u2slim.models import build_net
from u2slim.training.loggers import ResumableWandbLogger
from u2slim.training.provenance import git_state

BLOCK, HEADER = 32768, 7


def records(path: Path) -> Iterator:
    """The records of a .wandb file: a LevelDB log of protocol buffers behind a header of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, content = path.read_bytes(), HEADER, b""
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:  # padding at the end of a block
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        content += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(content)
            content = b""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[list[list], Path]:
    """The records of a run that failed at its first validation and of its resumption, offline; and the run folder."""
    folder = tmp_path_factory.mktemp("wandb")
    write_set(folder / "data" / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 20)
    options = (*TINY, "model=dwsep", "init=random", "data.val_count=2", "trainer.max_steps=11", "hydra.run.dir=run")
    wandb = ("logger=wandb", "logger.wandb.offline=true", "+logger.wandb.notes=by hand")
    every = "callbacks.checkpoint.every_n_train_steps=5"
    (folder / "run").mkdir()
    (folder / "run" / "pictures").touch()  # no folder can be made there
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_RUN_GROUP", "a sweep")
        printed = run("train.py", *options, *wandb, every, cwd=folder, ok=False)
        assert "cannot be written" in printed
        (folder / "run" / "pictures").unlink()
        printed = run("train.py", *options, *wandb, every, "ckpt_path=last", cwd=folder)
        assert "wandb: WARNING" not in printed and "wandb: Run data is saved locally" in printed
    paths = sorted((folder / "run" / "wandb").glob("offline-run-*/*.wandb"))
    return [list(records(path)) for path in paths], folder / "run"


def history(found: list) -> list[dict[str, str]]:
    """What was logged together, by name; of a picture its file's description."""
    rows = []
    for record in found:
        if record.HasField("history"):
            rows.append({})
            for item in record.history.item:
                names = list(item.nested_key) or [item.key]
                rows[-1]["/".join(names)] = json.loads(item.value_json)
    return rows


def test_a_resumed_run_goes_on_in_the_same_wandb_run(runs):
    parts, folder = runs
    assert len(parts) == 2
    abouts = [record.run for part in parts for record in part if record.HasField("run")]
    assert [about.run_id for about in abouts] == [(folder / "wandb_id").read_text().strip()] * 2
    for about in abouts:
        assert (about.project, about.run_group, about.job_type) == ("u2slim", "a sweep", "train")
        assert (about.display_name, about.notes) == ("dwsep-lite-random", "by hand")
        assert list(about.tags) == ["model=dwsep", "model.width=lite", "init=random", "data=duts"]
    ends = [record.exit.exit_code for part in parts for record in part if record.HasField("exit")]
    assert ends == [1, 0], "the first failed"
    steps = [row["trainer/global_step"] for part in parts for row in history(part) if "train/loss" in row]
    assert steps == list(range(11))
    assert all(row["_step"] == row["trainer/global_step"] for part in parts for row in history(part))
    for name in ("val/maxF", "val/pictures/_type", "val/masks/_type"):
        assert [row["_step"] for row in history(parts[1]) if name in row] == [9, 11], "after 10 steps, and at the end"
    for part in parts:
        metrics = {metric.glob_name: metric.step_metric for record in part if (metric := record.metric)}
        assert metrics["*"] == "trainer/global_step"


def test_what_a_killed_run_had_sent_is_not_sent_again(tmp_path):
    class Run:
        step, sent = 5, []

        def log(self, row, step):
            self.sent.append((step, row["train/loss"]))
            self.step = step

    logger = ResumableWandbLogger(str(tmp_path), experiment=Run())
    for step in range(3, 8):
        logger.log_metrics({"train/loss": step / 2}, step)
    assert Run.sent == [(5, 2.5), (6, 3.0), (7, 3.5)]


def test_the_config_names_code_libraries_and_size(runs):
    parts, _ = runs
    updates = [item for record in parts[0] if record.HasField("config") for item in record.config.update]
    config = {item.key: json.loads(item.value_json) for item in updates}
    assert config["data"]["batch_size"] == 2 and config["model"]["width"] == "lite"
    net = build_net(config["model"])
    assert config["model_size"]["name"] == "u2net-lite-dwsep"
    assert config["model_size"]["parameters_M"] == pytest.approx(
        sum(p.numel() for p in net.parameters()) / 1e6, abs=1e-3
    )
    assert config["versions"]["torch"] == torch.__version__


def test_pictures_are_laid_over_by_mask_and_prediction(runs):
    parts, folder = runs
    *_, masks = [row for row in history(parts[1]) if "val/masks/_type" in row]
    assert masks["val/masks/count"] == 2
    assert [set(image) for image in masks["val/masks/all_masks"]] == [{"ground_truth", "prediction"}] * 2
    grid = np.asarray(Image.open(folder / "pictures" / "step_000011.png"))
    files = (folder / "wandb" / "latest-run" / "files").resolve()
    for row, image in enumerate(masks["val/masks/all_masks"]):
        for column, name in enumerate(("ground_truth", "prediction"), 1):
            overlay = np.asarray(Image.open(files / image[name]["path"]))
            cell = grid[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64, 0]
            assert (overlay == (cell >= 128)).all(), name


def test_the_workspace_draws_what_runs_log(runs, tmp_path):
    pytest.importorskip("wandb_workspaces", reason="pip install wandb-workspaces")
    parts, _ = runs
    logged = {name for part in parts for row in history(part) for name in row}
    logged |= {name.rpartition("/")[0] for name in logged if name.endswith("/_type")}
    printed = run("u2slim.report.workspace", "entity=me", "group=a sweep", "dry=true", cwd=tmp_path)
    assert not list(tmp_path.iterdir())
    spec, _ = json.JSONDecoder().raw_decode(printed[printed.index("{") :])
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    panels = [panel["config"] for section in sections for panel in section["panels"]]
    drawn = {name for panel in panels for name in panel.get("metrics") or panel["mediaKeys"]}
    assert drawn == {name for name in logged if name in drawn}, "exactly the logged names"
    assert {"train/side6", "train/grad_norm", "val/maxF", "val/masks"} <= drawn
    assert {panel["xAxis"] for panel in panels if "metrics" in panel} == {"trainer/global_step"}
    (runset,) = spec["spec"]["section"]["runSets"]
    assert [(at["key"]["name"], at["value"]) for at in runset["filters"]["filters"]] == [("group", "a sweep")]
    assert [key["name"] for key in runset["grouping"]] == ["model_size.value.name", "init.value._target_"]


def test_without_a_login_a_sentence_says_what_to_do(duts, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "none"))
    options = (*TINY, f"data.root={duts}", "data.val_count=2", "model=dwsep", "init=random", "logger=wandb")
    printed = run("train.py", *options, "trainer.max_steps=1", cwd=tmp_path, ok=False)
    assert "(No API key configured): log in with `wandb login`, or log without a network" in printed
    assert "Traceback" not in printed


def test_git_state_names_the_commit_and_changes(tmp_path):
    assert git_state(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=me", "-c", "user.email=me@here"]
    (tmp_path / "file").write_text("one")
    for command in (["init", "-q", "-b", "trunk"], ["add", "file"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "new").touch()
    assert git_state(tmp_path) == {"commit": commit, "branch": "trunk", "dirty": False}
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == {"commit": commit, "branch": "trunk", "dirty": True}
