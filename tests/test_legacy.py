"""What was written before the package moved from `src` to `u2slim` still opens, resumes and composes.

`old/run` is the folder of a run of that time that was killed after step 4 of 8; `old/configs` are a user's own files.
"""

import csv
import json
import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import get_object

from tests.conftest import REPO, TINY, run, write_set
from u2slim.legacy import current, current_run
from u2slim.models import GroupedConv, ICNet, build_net
from u2slim.zoo import open_net

OLD = REPO / "tests" / "old"
CHECKPOINT = OLD / "run/checkpoints/step_000004.ckpt"

# All that the configs of that time named.
TARGETS = {
    "callbacks": "BaseRate ConfusionPicture EMA OptimizerCurves Progress StepCheckpoint StopAtNonFinite StopBelow "
    "Throughput ValidationPictures",
    "callbacks.losses": "BaseRate StopAtNonFinite StopBelow",
    "callbacks.checkpoint": "StepCheckpoint",
    "callbacks.confusion": "ConfusionPicture",
    "callbacks.pictures": "ValidationPictures",
    "data.saliency": "SaliencyDataModule",
    "data.semantic": "SemanticDataModule",
    "data.transforms": "scene strong u2net",
    "distill": "Distillation",
    "init": "backbone checkpoint pretrained random",
    "loggers": "ResumableWandbLogger",
    "losses": "BoundaryLoss CascadeLoss CrispLoss DeepSupervision HybridLoss",
    "models": "DepthwiseSeparableConv FCN GroupedConv ICNet LowRankConv PSPNet ParseNet StandardConv U2Net",
    "refine": "ForegroundML GuidedFilter",
    "schedules": "schedule",
    "sweep": "SweepCallback",
    "tasks": "SaliencyTask SemanticTask",
}


@pytest.mark.parametrize("name", [f"src.{m}.{n}" for m, names in TARGETS.items() for n in names.split()])
def test_every_old_target_is_something_today(name):
    target = current({"_target_": name})["_target_"]
    assert target.startswith("u2slim.") and callable(get_object(target))
    assert target.rpartition(".")[2] == name.rpartition(".")[2]


def test_only_targets_change_wherever_they_stand_and_the_config_given_stays():
    old = {
        "a": [{"_target_": "src.losses.CrispLoss", "_partial_": True}],
        "b": {"note": "src.losses.CrispLoss"},
        "c": None,
    }
    kept = yaml.safe_load(yaml.safe_dump(old))
    new = current(old)
    assert new["a"][0] == {"_target_": "u2slim.training.losses.CrispLoss", "_partial_": True}
    assert new["b"] == old["b"] and old == kept and current(new) == new
    for name in ("torch.optim.Adam", "src", "src.unheard.Of", "mysrc.models.U2Net", None):
        assert current({"_target_": name}) == {"_target_": name}


def test_best_checkpoints_of_an_old_run_are_kept_by_todays_callback():
    best = {"_target_": "pytorch_lightning.callbacks.ModelCheckpoint", "save_top_k": 3}
    today = current_run({"callbacks": {"best": best, "own": dict(best)}})["callbacks"]
    assert today["best"] == {"_target_": "u2slim.callbacks.KeepBest", "save_top_k": 3}
    assert today["own"]["_target_"] == "pytorch_lightning.callbacks.ModelCheckpoint"


def test_an_old_checkpoint_opens_as_the_net_it_was():
    net = open_net(CHECKPOINT).net()
    assert isinstance(net, ICNet) and net.preprocess.size == [32, 48]
    assert any(isinstance(module, GroupedConv) for module in net.modules())
    assert net.labels["names"] == ["sky", "ground", "house", "tree", "ball"]
    assert net.config["_target_"] == "u2slim.models.ICNet", "what is written of it next is of today"
    saved = torch.load(CHECKPOINT, weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, saved[f"net.{name}"]) for name, tensor in net.state_dict().items())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the old run where it was, under outputs/train."""
    shutil.copytree(OLD / "run", tmp_path / "outputs/train/old")
    return tmp_path


def settings(place: Path) -> list[str]:
    return yaml.safe_load((place / "outputs/train/old/.hydra/overrides.yaml").read_text())


def test_an_old_run_resumes_as_it_would_have_gone_on(place):
    printed = run("train.py", *settings(place), "resume=auto", "hydra.run.dir=outputs/train/old", cwd=place)
    assert "resuming from" in printed and "step_000004.ckpt" in printed
    folder = place / "outputs/train/old"
    assert json.loads((folder / "metrics.json").read_text())["step"] == 8
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 8
    with (folder / "csv/version_1/metrics.csv").open() as file:
        losses = {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}
    assert sorted(losses) == [4, 5, 6, 7]
    # What the code of that time logged of these steps.
    assert list(losses.values()) == pytest.approx([2.6366, 2.5939, 2.5575, 2.7754], rel=0.02)


def test_a_run_of_another_config_beside_an_old_one_begins_anew(place):
    printed = run("train.py", *settings(place), "seed=1", "resume=auto", "trainer.max_steps=4", cwd=place)
    assert "no run to continue from; starting a new one" in printed
    time.sleep(1)  # folders have the second in their name, and so short a run may take less
    printed = run("train.py", *settings(place), "resume=auto", cwd=place)
    assert "resuming from" in printed and "outputs/train/old/checkpoints/step_000004.ckpt" in printed


def test_init_takes_an_old_checkpoint(place):
    init = ("init=checkpoint", "init.path=outputs/train/old/checkpoints/step_000004.ckpt", "trainer.max_steps=4")
    assert "took the weights of" in run("train.py", *settings(place), *init, "hydra.run.dir=new", cwd=place)
    new = torch.load(place / "new/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]["model"]
    assert new["_target_"] == "u2slim.models.ICNet"


def test_a_users_own_configs_of_that_time_compose_and_build(tmp_path):
    write_set(tmp_path / "data" / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 8)
    options = ("experiment=mine", "init=random", *TINY, "trainer.max_steps=2", "data.val_count=2")
    run("train.py", "--config-dir", str(OLD / "configs"), *options, "hydra.run.dir=out", cwd=tmp_path)
    config = yaml.safe_load((tmp_path / "out/config.yaml").read_text())
    assert config["loss"]["_target_"] == "u2slim.training.losses.CrispLoss"
    assert config["scheduler"]["total_steps"] == 2
    assert config["callbacks"]["stop"]["answer"] == 0.05 and "fused" not in config["callbacks"]["stop"]
    net = build_net(yaml.safe_load((OLD / "configs/model/mine.yaml").read_text()))
    assert {conv.groups for conv in net.modules() if isinstance(conv, GroupedConv)} >= {4}
    assert config["model"] == net.config
