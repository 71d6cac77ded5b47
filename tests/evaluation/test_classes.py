"""Scores of nets that tell classes apart: Cityscapes' own numbers, what is kept, and what its test server takes."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from tests.conftest import REPO, cut, run
from u2slim.data.catalog import get_data_set
from u2slim.data.doctor import diagnose
from u2slim.data.labels import CITYSCAPES, IGNORE
from u2slim.data.pairs import Pair, find_pairs
from u2slim.data.semantic_datamodule import SemanticDataModule
from u2slim.errors import UserError
from u2slim.evaluation.classes import ClassResult, summarise_classes, tables
from u2slim.evaluation.entries import Model
from u2slim.evaluation.results import ModelFacts
from u2slim.evaluation.score_classes import score_classes
from u2slim.evaluation.store import Store
from u2slim.evaluation.submit import submit
from u2slim.models import FCN
from u2slim.runtime import Runner
from u2slim.zoo.checkpoints import write_net

TRAINED = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33])
SIZE = 1024, 2048

# What evalPixelLevelSemanticLabeling.py of cityscapesscripts 2.3.0 says of the three images of `made`, in full.
OFFICIAL = {
    "mIoU": 0.5693624708121101,
    "iIoU": 0.4875001838569694,
    "mIoU_category": 0.6076130691368208,
    "iIoU_category": 0.5211655690127612,
    "IoU/road": 0.5617875037653318,
    "IoU/bicycle": 0.4896018406084233,
    "iIoU/person": 0.2829792179400623,
    "iIoU/car": 0.606316919072815,
    "IoU_category/flat": 0.6145769601026848,
    "IoU_category/vehicle": 0.6651602028185323,
    "iIoU_category/human": 0.33576320120938774,
    "iIoU_category/vehicle": 0.7065679368161347,
}


def made(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, a prediction of them, and things, as Cityscapes stores them: each of 34 ids, things and groups."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    truth = (5 * (y // 8) + 3 * (x // 8) + 7 * number) % 34
    is_hit = np.isin(truth, TRAINED) & ((7 * x + 3 * y + number) % 10 < 6 + (truth % 3))
    predicted = np.where(is_hit, truth, TRAINED[(3 * (y // 4) + 7 * (x // 4) + number) % 19])
    thing = (y // 8 + x // 4) % 6
    things = np.where((truth >= 24) & (thing < 4), 1000 * truth + thing, truth)
    return truth.astype(np.uint8), predicted.astype(np.uint8), things.astype(np.uint16)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


@pytest.fixture(scope="module")
def val(tmp_path_factory) -> Path:
    """Three images of Cityscapes' size in its folders; a photo is as gray as its number."""
    root = tmp_path_factory.mktemp("cityscapes")
    for number in range(3):
        truth, _, things = made(number)
        name = f"val/ulm/ulm_{number:06}_000019"
        save(root / f"cityscapes/leftImg8bit/{name}_leftImg8bit.png", np.full_like(truth, number))
        save(root / f"cityscapes/gtFine/{name}_gtFine_labelIds.png", truth)
        save(root / f"cityscapes/gtFine/{name}_gtFine_instanceIds.png", things)
    return root


class Given(Runner):
    """Gives the prediction that is `made` for the photo, or is `broken`."""

    runtime = "given"

    def __init__(self, broken: bool = False):
        super().__init__(SIZE, labels={"names": CITYSCAPES.names, "palette": CITYSCAPES.palette})
        self.broken, self.asked = broken, 0

    def fingerprint(self) -> str:
        return "given"

    def probability(self, image_HW3: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def class_map(self, image_HW3: np.ndarray) -> np.ndarray:
        self.asked += 1
        if self.broken:
            raise RuntimeError("out of order")
        classes = np.full(256, IGNORE, np.uint8)
        classes[TRAINED] = range(19)
        return classes[made(int(image_HW3[0, 0, 0]))[1]]


def scored(runner: Runner, pairs: list[Pair], store: Store) -> ClassResult:
    scored = score_classes({"net": Model(ModelFacts(), runner)}, {"val": pairs}, store)
    return summarise_classes("net", scored["net", "val"], store)


def test_scores_are_those_of_the_official_script_and_nothing_is_computed_twice(val, tmp_path):
    pairs = find_pairs(get_data_set("cityscapes_val"), val)
    first = scored(Given(), pairs[:2], Store(tmp_path / "scores.sqlite"))
    runner = Given()  # as a process that continues after the first was ended
    whole = scored(runner, pairs, Store(tmp_path / "scores.sqlite"))
    assert (runner.asked, first.images, whole.images) == (1, 2, 3)
    found = whole.numbers
    assert {name: found[name] for name in OFFICIAL} == pytest.approx(OFFICIAL, rel=1e-12)
    assert sum(name.startswith("iIoU/") for name in found) == 8 and "iIoU_category/flat" not in found
    (head, row), ious = tables({"net": ModelFacts(params=1_000_000)}, [whole])
    assert head[2:8] == ["images", "mIoU", "accuracy", "mIoU category", "iIoU", "iIoU category"]
    assert row[2:4] == ["3", f"{OFFICIAL['mIoU']:.4f}"] and row[5:8] == ["0.6076", "0.4875", "0.5212"]
    assert ["road", "0.5618"] in ious and len(ious) == 20
    (_, unknown), _ = tables({"net": ModelFacts()}, [whole])
    assert (row[8], unknown[8]) == ("1.00", "-"), "millions of parameters, where they are known"

    # What went into it changes: another net's number is in another place, and a new file is looked at.
    Path(str(pairs[2].mask).replace("labelIds", "instanceIds")).unlink()
    without = scored(Given(), pairs, Store(tmp_path / "scores.sqlite")).numbers
    assert without["mIoU"] == found["mIoU"] and "iIoU" not in without, "not every image has its things"
    broken = scored(Given(broken=True), pairs, Store(tmp_path / "scores.sqlite"))
    assert broken.images == 3, "all are there already"
    with pytest.raises(UserError, match="net has no usable prediction on Cityscapes val: RuntimeError: out of order"):
        scored(Given(broken=True), pairs, Store(tmp_path / "other.sqlite"))


def test_an_image_without_any_class_or_of_another_size_is_left_out_by_name(val, tmp_path):
    pairs = find_pairs(get_data_set("cityscapes_val"), val)[:2]
    save(tmp_path / "void_labelIds.png", np.zeros(SIZE, np.uint8))
    save(tmp_path / "small_labelIds.png", np.zeros((8, 8), np.uint8))
    names = "void", "small", "gone"
    others = [replace(pairs[0], name=name, mask=tmp_path / f"{name}_labelIds.png") for name in names]
    result = scored(Given(), [*pairs, *others], Store(tmp_path / "scores.sqlite"))
    assert result.images == 2 and set(result.left_out) == {"void", "small", "gone"}
    assert result.left_out["void"] == "no pixel of its truth has a class" and "(8, 8)" in result.left_out["small"]
    assert "no such file" in result.left_out["gone"]
    assert result.numbers["mIoU"] == scored(Given(), pairs, Store(tmp_path / "scores.sqlite")).numbers["mIoU"]


def test_the_table_of_labels_is_the_official_one():
    pytest.importorskip("cityscapesscripts", reason="compares with that package's own table: pip install it to see")
    from cityscapesscripts.helpers.labels import labels

    trained = sorted((label for label in labels if 0 <= label.trainId < 255), key=lambda label: label.trainId)
    assert tuple(label.name for label in trained) == CITYSCAPES.names
    assert tuple(label.color for label in trained) == CITYSCAPES.palette
    assert tuple(label.id for label in trained) == CITYSCAPES.ids["_labelIds"]
    assert tuple(label.category for label in trained) == CITYSCAPES.categories
    assert [label.hasInstances for label in trained] == [size > 0 for size in CITYSCAPES.instance_sizes]
    void = {label.id for label in labels if label.ignoreInEval and label.id >= 0}
    assert void == set(CITYSCAPES.nothing["_labelIds"])


def test_void_and_license_plates_are_no_class(tmp_path):
    # Ego vehicle, rectification border, out of the region, and -1 (license plate) as 8 bits have it.
    save(tmp_path / "a_labelIds.png", np.uint8([[0, 1, 2, 3, 255, 7, 33]]))
    assert CITYSCAPES.read(str(tmp_path / "a_labelIds.png")).tolist() == [[IGNORE] * 5 + [0, 18]]
    np.testing.assert_array_equal(CITYSCAPES.stored(np.arange(19, dtype=np.uint8)), TRAINED)


@pytest.fixture
def test_images(tmp_path) -> Path:
    """Two images of the test split, whose published labels say nothing, and one of the further training images."""
    rng = np.random.default_rng(0)
    for name in ("berlin/berlin_000000_000019", "bonn/bonn_000001_000019"):
        photo = rng.integers(0, 255, (64, 128, 3), np.uint8)
        save(tmp_path / f"Cityscapes/leftImg8bit/test/{name}_leftImg8bit.png", photo)
    labels = "Cityscapes/gtFine/test/berlin/berlin_000000_000019_gtFine_labelIds.png"
    save(tmp_path / labels, np.ones((64, 128), np.uint8))
    extra = "Cityscapes/{}/train_extra/augsburg/augsburg_000000_000000_{}.png"
    save(tmp_path / extra.format("leftImg8bit", "leftImg8bit"), rng.integers(0, 255, (64, 128, 3), np.uint8))
    save(tmp_path / extra.format("gtCoarse", "gtCoarse_labelIds"), np.full((64, 128), 7, np.uint8))
    return tmp_path


def test_test_images_have_no_labels_and_coarse_ones_are_found(test_images):
    reports, _ = diagnose(str(test_images), ["cityscapes_test", "cityscapes_train_extra"])
    found = reports["cityscapes_test"]
    assert found.found == len(found.usable) == 2 and not found.findings and not found.labelled
    assert {pair.mask for pair, _ in found.usable} == {None}
    coarse = reports["cityscapes_train_extra"]
    assert coarse.usable[0][1].classes[0] == 64 * 128 and "gtCoarse" in str(coarse.usable[0][0].mask)
    assert {finding.kind for finding in coarse.findings} == {"absent class"}
    data = SemanticDataModule(str(test_images), test={"cityscapes_test": None}, classes=19, size=[64, 128])
    with pytest.raises(UserError, match="labels of Cityscapes test are not published, so nothing can be trained or sc"):
        data.test_pairs()
    with pytest.raises(UserError, match="labels of Cityscapes test are not published"):
        SemanticDataModule(str(test_images), "cityscapes_test", classes=19, size=[64, 128])


def checkpoint(path: Path, seed: int) -> FCN:
    torch.manual_seed(seed)
    net = FCN(classes=19, width=0.05, backbone="resnet18").eval()
    net.config = {"_target_": "u2slim.models.FCN", "classes": 19, "width": 0.05, "backbone": "resnet18"}
    net.labels = {"names": list(CITYSCAPES.names), "palette": [list(colour) for colour in CITYSCAPES.palette]}
    write_net(net, [32, 64], path)
    return net


def settings(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return compose("eval", list(overrides))


def maps(folder: Path) -> Iterator[np.ndarray]:
    return (np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png")))


def test_submit_writes_what_the_test_server_takes_and_goes_on_where_it_was_stopped(test_images):
    checkpoint(test_images / "a.ckpt", 0)
    command = ("eval.py", "checkpoint=a.ckpt", "data=cityscapes_test", f"data.root={test_images}")
    printed = run(*command, "submit=sent", cwd=test_images)
    names = sorted(path.name for path in (test_images / "sent").glob("*.png"))
    assert names == ["berlin_000000_000019_labelIds.png", "bonn_000001_000019_labelIds.png"]
    written = list(maps(test_images / "sent"))
    assert all(ids.shape == (64, 128) and ids.dtype == np.uint8 and np.isin(ids, TRAINED).all() for ids in written)
    assert (
        "2 label files of Cityscapes test" in printed
        and "has 1525 images: the server takes only all of them" in printed
    )
    photos = sorted((test_images / "Cityscapes/leftImg8bit/test").rglob("*.png"))
    cut("--net", test_images / "a.ckpt", *photos, "-o", test_images / "cut", cwd=test_images)
    for path, ids in zip(sorted((test_images / "cut/classes").rglob("*.png")), written, strict=True):
        np.testing.assert_array_equal(TRAINED[np.asarray(Image.open(path))], ids)

    # As a killed process leaves it.
    bonn, berlin = test_images / "sent" / names[1], test_images / "sent" / names[0]
    bonn.unlink()
    (test_images / "sent/.77.part.0badcafe.png").write_bytes(b"half")
    before = berlin.stat().st_mtime_ns
    submit(settings(f"checkpoint={test_images}/a.ckpt", *command[2:], f"submit={test_images}/sent"))
    assert berlin.stat().st_mtime_ns == before and np.array_equal(np.asarray(Image.open(bonn)), written[1])
    assert {path.name for path in (test_images / "sent").iterdir()} == {*names, ".made_by"}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["checkpoint=ROOT/a.ckpt", "data=cityscapes_test"], "files that this net did not make for Cityscapes test"),
        (["checkpoint=lite-half", "data=ecssd", "data.manifest=null"], "choose data with classes"),
        (["models={a:ROOT/a.ckpt,b:ROOT/a.ckpt}", "data=cityscapes_test"], "one set, not for 2 nets and 1 sets"),
    ],
)
def test_what_cannot_be_submitted_is_refused_in_a_sentence(test_images, overrides, sentence):
    checkpoint(test_images / "a.ckpt", 0)
    save(test_images / "out/berlin_000000_000019_labelIds.png", np.zeros((64, 128), np.uint8))
    given = [override.replace("ROOT", str(test_images)) for override in overrides]
    with pytest.raises(UserError, match=sentence):
        submit(settings(*given, f"data.root={test_images}", f"submit={test_images}/out"))
    assert len(list((test_images / "out").iterdir())) == 1


def test_a_report_shows_what_was_scored(test_images):
    """`report=true` writes the page, and images.csv has the numbers that it chose its pictures by."""
    root = test_images / "Cityscapes"
    rng = np.random.default_rng(1)
    for number in range(3):
        name = f"val/ulm/ulm_{number:06}_000019"
        save(root / f"leftImg8bit/{name}_leftImg8bit.png", rng.integers(0, 255, (64, 128, 3), np.uint8))
        save(root / f"gtFine/{name}_gtFine_labelIds.png", rng.choice(TRAINED, (64, 128)).astype(np.uint8))
    checkpoint(test_images / "a.ckpt", 0)
    options = ("data=cityscapes", f"data.root={test_images}", "latency=0", "report=true", "pictures=1")
    printed = run("eval.py", "checkpoint=a.ckpt", *options, "hydra.run.dir=out", cwd=test_images)
    assert "report.html" in printed
    with (test_images / "out/images.csv").open() as file:
        rows = list(csv.DictReader(file))
    worst = min(rows, key=lambda row: float(row["mIoU"]))
    assert len(rows) == 3 and f"<b>{worst['image']}</b>" in (test_images / "out/report.html").read_text()
    (found,) = json.loads((test_images / "out/metrics.json").read_text())["results"]
    total = np.array(found["confusion"])
    assert total.sum() == 3 * 64 * 128 and found["accuracy"] == pytest.approx(np.trace(total) / total.sum())
    assert found["accuracy"] == pytest.approx(np.mean([float(row["accuracy"]) for row in rows]))  # of equal images
