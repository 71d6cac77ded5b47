"""Runs on classes of one's own, the weights of classes from their data, and which set scores are of."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import run
from tests.data.test_own_classes import NAMES, TENS, write_scenes
from tests.tasks.test_semantic import SMALL, camvid, tiny_task
from u2slim.errors import UserError
from u2slim.training.class_weights import class_weights
from u2slim.training.losses import CascadeLoss

STEPS = ("data.batch_size=4", "data.num_workers=0", "trainer.max_steps=2", "callbacks.checkpoint.every_n_train_steps=1")
OWN = ("task=semantic", "model=icnet", "data.images=photos", "data.masks=labels", "data.size=[96,128]", *SMALL, *STEPS)
DECLARED = ("--config-dir=mine", *OWN, "data=scenes", "loss.class_weights=log")


def test_the_weights_of_classes_are_the_articles_by_hand_and_finite_where_a_class_is_nowhere():
    # Class 0 fills the first image and half of the second, class 1 the other half, class 2 is nowhere.
    pixels = np.array([[100, 0, 0], [50, 50, 0]])
    assert class_weights("log", pixels) == pytest.approx([1 / np.log(1.02 + 0.75), 1 / np.log(1.27), 1 / np.log(1.02)])
    # Frequencies 150 / 200 and 50 / 100, whose median is .625.
    assert class_weights("median", pixels) == pytest.approx([0.625 / 0.75, 0.625 / 0.5, 1])
    assert class_weights("log", 0 * pixels) == class_weights("median", 0 * pixels) == [1, 1, 1]


def test_weights_that_make_no_sense_are_named():
    for given in ("mean", [1, -1, 2], [1, float("nan"), 2]):
        with pytest.raises(UserError, match=r"loss\.class_weights=.*: give"):
            CascadeLoss(class_weights=given)
    with pytest.raises(UserError, match=r"loss\.class_weights has 2 numbers; give 3: a, b, c"):
        tiny_task(loss=CascadeLoss(class_weights=[1, 2]))
    with pytest.raises(UserError, match=r"loss\.class_weights=log is found on training images"):
        tiny_task(loss=CascadeLoss(class_weights="log"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """A run on ten scenes, declared by a file of the user's own."""
    folder = tmp_path_factory.mktemp("own")
    write_scenes(folder, 10)
    (folder / "mine/data").mkdir(parents=True)
    labels = "\n".join(f"  {name}: {{id: {id_}, colour: [{id_}, 0, 0]}}" for name, id_ in TENS.items())
    declared = f"defaults: [own_classes, _self_]\nlabels:\n{labels}\nignore: [0]\n"
    (folder / "mine/data/scenes.yaml").write_text(declared)
    return folder, run("train.py", *DECLARED, "hydra.run.dir=run", cwd=folder)


def test_a_run_has_the_declared_classes_and_weighs_them_by_its_training_images(trained):
    folder, printed = trained
    assert "training on 9 images, validating on 1" in printed
    kept = torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)
    assert kept["hyper_parameters"]["model"]["classes"] == 5
    assert kept["hyper_parameters"]["classes"] == {"names": NAMES, "palette": [[id_, 0, 0] for id_ in TENS.values()]}
    counts = [np.bincount(np.asarray(Image.open(path)).ravel(), minlength=51)[10::10] for path in labels(folder)]
    for held_out in range(10):
        others = np.array([count for index, count in enumerate(counts) if index != held_out])
        if kept["class_weights"] == pytest.approx(class_weights("log", others), rel=1e-6):
            break
    else:
        pytest.fail(f"{kept['class_weights']} are no weights of nine of these images")
    assert printed.count("class weights (log): sky ") == 1


def labels(folder: Path) -> list[Path]:
    return sorted((folder / "labels").iterdir())


def test_a_resumed_run_keeps_its_weights_though_the_data_have_changed(trained):
    folder, _ = trained
    kept = torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)["class_weights"]
    before = labels(folder)[0].read_bytes()
    Image.fromarray(np.full((96, 128), 50, np.uint8)).save(labels(folder)[0])
    first = "ckpt_path=run/checkpoints/step_000001.ckpt"
    printed = run("train.py", *DECLARED, first, "hydra.run.dir=resumed", cwd=folder)
    labels(folder)[0].write_bytes(before)
    assert torch.load(folder / "resumed/checkpoints/last.ckpt", weights_only=True)["class_weights"] == kept
    assert f"class weights (log): sky {kept[0]:.3g}," in printed


def test_it_is_scored_and_shown_by_a_declaration_on_the_command_line(trained):
    folder, _ = trained
    given = ("data.images=photos", "data.masks=labels", "data.ignore=0")
    declared = "data.labels={" + ",".join(f"{name}:{id_}" for name, id_ in TENS.items()) + "}"
    own = ("data=own_classes", *given, declared)
    run("eval.py", "checkpoint=run/checkpoints/last.ckpt", *own, "latency=0", "hydra.run.dir=eval", cwd=folder)
    [result] = json.loads((folder / "eval/metrics.json").read_text())["results"]
    assert (result["data"], result["images"]) == ("own", 10)
    assert np.sum(result["confusion"]) == sum((np.asarray(Image.open(path)) > 0).sum() for path in labels(folder))
    run("u2slim.data.preview", *own, "augment=scene", "images=2", "out=sheet.png", cwd=folder)
    assert Image.open(folder / "sheet.png").size[0] > 640
    printed = run("train.py", *OWN, "data=own_classes", cwd=folder, ok=False)
    assert "own has masks, not classes: name your classes in the order of their ids, as data.labels=[" in printed
    printed = run("train.py", *OWN, "data=own_classes", "data.labels=[sky,road,car]", cwd=folder, ok=False)
    assert "0000.png holds the ids 10, 20, 30, 50, which stand for no class" in printed


@pytest.mark.slow
def test_the_test_set_of_camvid_is_scored_where_it_is_there(trained):
    folder, _ = trained
    model = ("model=icnet", "data=camvid", "data.size=[48,64]", "data.crop=[48,64]", *SMALL, *STEPS)
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        camvid(folder / "data", part, count)
    printed = run("train.py", "task=semantic", *model, "trainer.max_steps=1", "hydra.run.dir=camvid", cwd=folder)
    assert "(2 images of CamVid val)" in next(line for line in printed.splitlines() if "trained icnet" in line)
    common = ("checkpoint=camvid/checkpoints/last.ckpt", "data=camvid", "latency=0")
    for chosen, sets in (
        ("data.test={camvid_test: null}", {"CamVid test": 3}),
        ("data.test=camvid_test", {"CamVid test": 3}),
        ("data.test=[camvid_val,camvid_test]", {"CamVid val": 2, "CamVid test": 3}),
    ):
        printed = run("eval.py", *common, chosen, "hydra.run.dir=camvid/eval", cwd=folder)
        results = json.loads((folder / "camvid/eval/metrics.json").read_text())["results"]
        assert {result["data"]: result["images"] for result in results} == sets
        for name in ("CamVid val", "CamVid test"):
            assert (f"IoU on {name}" in printed) == (name in printed.splitlines()[-1]) == (name in sets)
