"""Semantic segmentation in the frame of saliency: labels, crops, loss, scores, runs, and what users give wrongly."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from PIL import Image

from tests.conftest import REPO, cut, real_data, run
from u2slim.data.catalog import CATALOG, get_data_set
from u2slim.data.dataset import PairDataset, StreamSampler, TrainStream, load_square
from u2slim.data.doctor import diagnose, label_rows, rows
from u2slim.data.labels import CAMVID, CITYSCAPES, IGNORE
from u2slim.data.pairs import find_pairs
from u2slim.data.scenes import render_scene
from u2slim.data.semantic_datamodule import SemanticDataModule
from u2slim.data.transforms import scene
from u2slim.errors import UserError
from u2slim.evaluation.confusion import scores
from u2slim.tasks import SaliencyTask, SemanticTask
from u2slim.training.losses import CascadeLoss, DeepSupervision

NAMES = ["a", "b", "c"]
SMALL = ("model.width=0.1", "model.backbone=resnet18", "trainer=cpu", "trainer.precision=32-true")
OPTIONS = (
    "task=semantic",
    "data=sample_semantic",
    *SMALL,
    "data.batch_size=4",
    "data.num_workers=0",
    "data.val_batch_size=5",
    "trainer.log_every_n_steps=1",
    "trainer.max_steps=4",
    "callbacks.checkpoint.every_n_train_steps=2",
)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def cityscapes(tmp_path):
    """Three images of two cities as published, one with train ids as well; and their labels as class numbers."""
    expected = {}
    for index, name in enumerate(("aachen/aachen_000000", "aachen/aachen_000001", "ulm/ulm_000000")):
        rng = np.random.default_rng(index)
        ids = rng.choice(34, (24, 48)).astype(np.uint8)
        home = tmp_path / "cityscapes"
        save(home / f"leftImg8bit/train/{name}_leftImg8bit.png", rng.integers(0, 255, (24, 48, 3), np.uint8))
        save(home / f"gtFine/train/{name}_gtFine_labelIds.png", ids)
        save(home / f"gtFine/train/{name}_gtFine_color.png", np.zeros((24, 48, 4), np.uint8))
        by_hand = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
        by_hand |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
        expected[name.split("/")[1]] = np.vectorize(lambda value, known=by_hand: known.get(value, 255))(ids)
    return tmp_path, expected


def test_cityscapes_as_published_has_19_classes_and_train_ids_mean_the_same(cityscapes):
    root, expected = cityscapes
    pairs = find_pairs(get_data_set("cityscapes_train"), root)
    assert [pair.name for pair in pairs] == sorted(expected)
    for pair in pairs:
        np.testing.assert_array_equal(load_square(pair, (24, 48))[1], expected[pair.name])
        save(Path(str(pair.mask).replace("labelIds", "labelTrainIds")), expected[pair.name].astype(np.uint8))
        Path(pair.mask).unlink()
    for pair in find_pairs(get_data_set("cityscapes_train"), root):
        assert "labelTrainIds" in pair.mask.name
        np.testing.assert_array_equal(load_square(pair, (24, 48))[1], expected[pair.name])
    assert len(CITYSCAPES.names) == len(CITYSCAPES.palette) == 19 and len(CAMVID.names) == len(CAMVID.palette) == 11


def camvid(root: Path, part: str, count: int, first: int = 0) -> Path:
    """Scenes as CamVid has them: 11 for no class."""
    for index in range(first, first + count):
        image, labels = render_scene(3, index)
        save(root / f"CamVid/{part}/{index:04d}.png", image)
        save(root / f"CamVid/{part}annot/{index:04d}.png", np.where(labels == IGNORE, 11, labels).astype(np.uint8))
    return root


def test_labels_are_resized_to_their_nearest_pixels_and_height_is_height(tmp_path):
    [pair] = find_pairs(get_data_set("camvid_val"), camvid(tmp_path, "val", 1))
    labels = CAMVID.read(pair.mask)
    assert set(np.unique(labels)) <= {*range(11), IGNORE} and IGNORE in labels
    image, small = load_square(pair, (48, 32))  # height, width of an image of 96 x 128
    assert image.shape == (48, 32, 3)
    # The centre of small pixel (y, x) lies at (2 y + 1, 4 x + 2) of the large ones' edges.
    np.testing.assert_array_equal(small, labels[1::2][:, 2::4])


def test_a_crop_is_not_square_stays_with_its_image_and_pads_with_no_class():
    # Red counts rows, green columns, the labels repeat both: so a sample says where it is from.
    y, x = np.mgrid[0:40, 0:100].astype(np.uint8)
    image, labels = np.dstack([y * 6, x * 2, 255 * np.ones_like(x)]), (y // 4 + x // 10).astype(np.uint8)
    plain = scene((24, 64), mirror=False, scaling=False)
    plain.set_random_seed(1)
    out = plain(image=image, mask=labels)
    assert out["image"].shape == (24, 64, 3) and out["mask"].shape == (24, 64)
    top, left = out["image"][0, 0, 0] // 6, out["image"][0, 0, 1] // 2
    np.testing.assert_array_equal(out["mask"], labels[top : top + 24, left : left + 64])
    assert (top, left) != (0, 0)

    seen = set()
    scaled = scene((60, 64))
    for seed in range(12):
        scaled.set_random_seed(seed)
        out = scaled(image=image, mask=labels)
        assert out["image"].shape == (60, 64, 3)
        known = out["mask"] != IGNORE
        added = out["image"][..., 2] != 255
        np.testing.assert_array_equal(known, ~added)
        seen.add((int(known.sum(0).max()), bool(out["image"][0, 0, 1] > out["image"][0, min(known.sum(1)) - 1, 1])))
        row, column = (out["image"][known][:, channel] for channel in (0, 1))
        wanted = (row / 6).round() // 4 + (column / 2).round() // 10
        assert (np.abs(wanted - out["mask"][known]) <= 2).all()
    assert len({height for height, _ in seen}) > 6 and {mirrored for _, mirrored in seen} == {True, False}
    with pytest.raises(UserError, match=r"data.crop=\[24\]: give a side in pixels, or \[height,width\]"):
        scene([24])


def test_the_stream_of_labels_is_addressed_as_that_of_masks(tmp_path):
    pairs = find_pairs(get_data_set("camvid_train"), camvid(tmp_path, "train", 5))
    streams = [TrainStream(pairs, (96, 128), scene((32, 40)), seed=4) for _ in range(2)]
    whole = [streams[0][k] for k in range(10)]
    for first in StreamSampler(batches=2, batch_size=4, start=1, rank=1, world_size=2):
        assert first == [6, 7]
        for k in first:  # reached without the samples before them
            again = streams[1][k]
            assert again["name"] == whole[k]["name"] and torch.equal(again["mask"], whole[k]["mask"])
            assert torch.equal(again["image"], whole[k]["image"])
    assert sorted(sample["name"] for sample in whole[:5]) == [f"camvid_train/{pair.name}" for pair in pairs]


def test_the_loss_is_the_papers_sum_by_hand_and_ignores_what_has_no_class():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 32, 48))
    labels[:, :10] = IGNORE
    outputs = [torch.randn(2, 3, 32 // part, 48 // part, requires_grad=True) for part in (4, 8, 16)]

    def by_hand(logits):
        part = 32 // logits.shape[2]
        total, count = 0.0, 0
        for b in range(2):
            for y in range(logits.shape[2]):
                for x in range(logits.shape[3]):
                    label = labels[b, y * part + part // 2, x * part + part // 2]
                    if label != IGNORE:
                        total = total - torch.log_softmax(logits[b, :, y, x], 0)[label]
                        count += 1
        return total / count

    total, terms = CascadeLoss()(named(outputs), labels)
    hand = [by_hand(logits) for logits in outputs]
    assert list(terms) == ["main", "auxiliary1", "auxiliary2"]
    torch.testing.assert_close(torch.stack(list(terms.values())), torch.stack(hand))
    torch.testing.assert_close(total, hand[0] + 0.4 * hand[1] + 0.16 * hand[2])
    torch.testing.assert_close(CascadeLoss()(named(outputs[:2]), labels)[0], hand[0] + 0.4 * hand[1])
    torch.testing.assert_close(CascadeLoss()(named(outputs[:1]), labels)[0], hand[0])
    total.backward()
    assert (outputs[0].grad[:, :, 0] == 0).all() and (outputs[0].grad[:, :, 2] != 0).any()
    assert CascadeLoss()(named(outputs), torch.full_like(labels, IGNORE))[0] == 0
    with pytest.raises(UserError, match="loss.weights has 1 numbers; give 3"):
        CascadeLoss([1.0])(named(outputs), labels)


def test_weighted_classes_count_as_torch_weighs_them_and_a_batch_without_classes_is_nothing():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    labels = torch.tensor([0, 1, 2, IGNORE])[torch.randint(4, (2, 4, 5), generator=generator)]
    loss = CascadeLoss([1.0], class_weights=[0.5, 1.0, 4.0])
    expected = F.cross_entropy(logits, labels, torch.tensor([0.5, 1.0, 4.0]), ignore_index=IGNORE)
    torch.testing.assert_close(loss(named([logits]), labels)[0], expected)
    assert loss(named([logits]), torch.full_like(labels, IGNORE))[0] == 0
    assert "class_weights" not in loss.state_dict(), "older checkpoints have none"


def named(outputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(zip(("main", "auxiliary1", "auxiliary2"), outputs, strict=False))


def tiny_task(classes: int = 3, **options) -> SemanticTask:
    model = {"_target_": "u2slim.models.FCN", "classes": classes, "width": 0.05, "backbone": "resnet18"}
    named = {"names": NAMES[:classes], "palette": [[0, 0, 0]] * classes}
    return SemanticTask(model, [32, 64], named, **options)


def test_scores_are_of_all_pixels_together_not_means_over_images():
    task = tiny_task()
    rng = np.random.default_rng(0)
    truth = [rng.choice([0, 1, IGNORE], (1, 8, 8), p=[0.8, 0.1, 0.1]), rng.choice([1, IGNORE], (2, 8, 8))]
    guess = [rng.choice(2, batch.shape) for batch in truth]
    for labels, predicted in zip(truth, guess, strict=True):
        logits = F.one_hot(torch.from_numpy(predicted), 3).permute(0, 3, 1, 2).float()
        shown = task.score([logits], {"mask": torch.from_numpy(labels)})
        np.testing.assert_array_equal(shown, predicted)
    labels, predicted = (np.concatenate([batch.ravel() for batch in batches]) for batches in (truth, guess))
    labels, predicted = labels[labels != IGNORE], predicted[labels != IGNORE]
    ious = [((labels == k) & (predicted == k)).sum() / ((labels == k) | (predicted == k)).sum() for k in (0, 1)]
    found = {name: float(value) for name, value in task.scores().items()}
    # Class c is neither there nor predicted: it is in no mean.
    wanted = {"mIoU": np.mean(ious), "accuracy": (labels == predicted).mean(), "IoU/a": ious[0], "IoU/b": ious[1]}
    assert found == pytest.approx(wanted)
    assert task.confusion.sum() == len(labels)
    assert scores(np.zeros((2, 2), int), NAMES[:2]) == {"mIoU": 0, "accuracy": 0}


@pytest.mark.parametrize("extra", [(), ("experiment=icnet_cityscapes",)])
def test_the_task_brings_what_belongs_to_it(extra):
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        cfg = compose("train", [*(extra or ("task=semantic", "model=icnet", "data=cityscapes")), "optimizer.lr=0.004"])
        saliency = compose("train", [])
        other = compose("train", ["task=semantic", "model=fcn", "data=camvid", "loss=crisp", "data.crop=[90,120]"])
    assert cfg.loss._target_.endswith("CascadeLoss") and list(cfg.loss.weights) == [1.0, 0.4, 0.16]
    sgd = {name: cfg.optimizer[name] for name in ("_target_", "lr", "momentum", "weight_decay")}
    assert sgd == {"_target_": "torch.optim.SGD", "lr": 0.004, "momentum": 0.9, "weight_decay": 1e-4}
    assert (cfg.scheduler.shape, cfg.scheduler.power, cfg.optimized_metric) == ("poly", 0.9, "val/mIoU")
    assert (cfg.data.batch_size, list(cfg.data.augment.crop), cfg.model.classes) == (16, [720, 720], 19)
    assert list(cfg.data.augment.scales) == [0.5, 2.0] and cfg.data.augment.mirror and cfg.data.augment.scaling
    assert cfg.init._target_ == "u2slim.compress.init.backbone" and cfg.init.weights is None
    assert not extra or cfg.trainer.max_steps == 30000
    assert (other.model.classes, other.loss._target_) == (11, "u2slim.training.losses.CrispLoss"), (
        "the user's choice stays"
    )
    assert list(other.data.augment.crop) == [90, 120]
    assert (saliency.optimized_metric, saliency.task._target_) == ("val/maxF", "u2slim.tasks.SaliencyTask")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("semantic")
    printed = run("train.py", *OPTIONS, "model=icnet", "data.random_scaling=false", "hydra.run.dir=run", cwd=folder)
    return folder, printed


def test_a_run_leaves_scores_pictures_and_a_checkpoint_that_knows_its_classes(trained):
    folder, printed = trained
    assert "training on 64 images, validating on 16" in printed and "trained icnet" in printed
    metrics = json.loads((folder / "run/metrics.json").read_text())
    with (folder / "run/csv/version_0/metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    for row in [row for row in lines if row["train/loss"]]:
        main, first, second = (float(row[f"train/{name}"]) for name in ("main", "auxiliary1", "auxiliary2"))
        assert float(row["train/loss"]) == pytest.approx(main + 0.4 * first + 0.16 * second, rel=1e-5)
    ious = [value for name, value in metrics.items() if name.startswith("val/IoU/")]
    assert metrics["val/mIoU"] == pytest.approx(np.mean(ious), abs=1e-6) and "val/IoU/house" in metrics
    assert 0 < metrics["val/accuracy"] < 1
    grid = np.asarray(Image.open(folder / "run/pictures/step_000004.png"))
    assert grid.shape == (8 * 96, 3 * 128, 3)
    photo, truth = grid[:96, :128].astype(int), grid[:96, 128:256].astype(int)
    image, labels = (
        np.asarray(Image.open(p / "0064.png")) for p in (folder / "data/sample_semantic/scenes").glob("val*")
    )
    image, labels = (image, labels) if image.ndim == 3 else (labels, image)
    np.testing.assert_array_equal(photo, image)
    sky = np.array(CATALOG["scenes_val"].labels.palette[0])
    np.testing.assert_array_equal(truth[labels == 0], (photo[labels == 0] + sky + 1) // 2)
    np.testing.assert_array_equal(truth[labels == IGNORE], photo[labels == IGNORE])
    assert (folder / "run/pictures/confusion_000004.png").is_file()
    kept = torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    assert kept["size"] == [96, 128] and kept["classes"]["names"][2] == "house"
    assert kept["classes"]["palette"][0] == [70, 130, 180] and kept["model"]["classes"] == 5


def test_it_resumes_bit_for_bit_and_two_processes_score_as_one(trained):
    folder, _ = trained
    common = (*OPTIONS, "model=icnet", "data.random_scaling=false", "ckpt_path=run/checkpoints/step_000002.ckpt")
    run("train.py", *common, "hydra.run.dir=resumed", cwd=folder)
    whole, again = (torch.load(folder / d / "checkpoints/last.ckpt", weights_only=True) for d in ("run", "resumed"))
    assert whole["global_step"] == again["global_step"] == 4
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, again["state_dict"][name]), name
    # From the last step on there is only validation: 16 images as 5, 5, 5, 1 or by two processes as 5, 3 each.
    last = (*OPTIONS, "model=icnet", "data.random_scaling=false", "ckpt_path=run/checkpoints/step_000004.ckpt")
    wandb = ("logger=wandb", "logger.wandb.offline=true")
    run("train.py", *last, "trainer=ddp", "trainer.accelerator=cpu", *wandb, "hydra.run.dir=two", cwd=folder)
    one, two = (json.loads((folder / d / "metrics.json").read_text()) for d in ("run", "two"))
    names = [name for name in one if "IoU" in name or name == "val/accuracy"]
    assert len(names) >= 4 and {n: one[n] for n in names} == pytest.approx({n: two[n] for n in names}, abs=1e-4)
    # W&B has the classes' numbers to lay over the images, and the confusion matrix.
    (images,) = (folder / "two/wandb").glob("offline-run-*/files/media/images")
    scenes_ = folder / "data/sample_semantic/scenes"
    maps = [np.asarray(Image.open(path)) for path in images.glob("mask/val/masks_*.png")]
    assert any(np.array_equal(found, np.asarray(Image.open(scenes_ / "valannot/0064.png"))) for found in maps)
    assert len(maps) == 2 * 8 and len(list(images.glob("val/confusion_*.png"))) == 1


def test_a_checkpoint_alone_is_scored_and_predicts_with_names_and_colours(trained):
    folder, _ = trained
    printed = run(
        "eval.py", "checkpoint=run/checkpoints/last.ckpt", "data=sample_semantic", "hydra.run.dir=eval", cwd=folder
    )
    metrics = json.loads((folder / "run/metrics.json").read_text())
    [found] = json.loads((folder / "eval/metrics.json").read_text())["results"]
    # Training scores at the size of the images, which is that of the labels here.
    for name in ("mIoU", "accuracy", "IoU/sky"):
        assert found[name] == pytest.approx(metrics[f"val/{name}"], abs=2e-3), name
    confusion = np.array(found["confusion"])
    assert confusion.shape == (5, 5) and np.trace(confusion) / confusion.sum() == pytest.approx(found["accuracy"])
    assert "house" in printed and "mIoU" in printed and list((folder / "eval").glob("confusion_*.png"))
    assert f"| {found['mIoU']:.4f} |" in (folder / "eval/table.md").read_text()

    scenes_ = folder / "data/sample_semantic/scenes"
    cut("--net", "run/checkpoints/last.ckpt", scenes_ / "val", "-o", "cut", "--workers", 1, cwd=folder)
    counted = np.zeros((5, 5), int)
    palette = np.array(CATALOG["scenes_val"].labels.palette)
    for path in sorted((folder / "cut/classes").iterdir()):
        ids, truth = np.asarray(Image.open(path)), np.asarray(Image.open(scenes_ / "valannot" / path.name))
        assert ids.shape == (96, 128) and ids.dtype == np.uint8
        photo = np.asarray(Image.open(scenes_ / "val" / path.name)).astype(int)
        np.testing.assert_array_equal(
            np.asarray(Image.open(folder / "cut/overlays" / path.name)), (photo + palette[ids] + 1) // 2
        )
        np.add.at(counted, (truth[truth != IGNORE], ids[truth != IGNORE]), 1)
    np.testing.assert_array_equal(counted, confusion)


def test_an_exported_file_names_its_classes_and_gives_the_checkpoints_maps(trained):
    folder, _ = trained
    printed = run(
        "export.py", "checkpoint=run/checkpoints/last.ckpt", "export.output=icnet.onnx", "export.count=1", cwd=folder
    )
    assert "at 96x128" in printed and "onnxruntime" in printed
    said = {item.key: item.value for item in onnx.load(folder / "icnet.onnx").metadata_props}
    assert said["u2slim.classes"] == "sky,ground,house,tree,ball" and said["u2slim.size"] == "96x128"
    assert said["u2slim.palette"].split()[0] == "#4682b4"
    maps = []
    image = folder / "data/sample_semantic/scenes/val/0065.png"
    for net, runtime in (("run/checkpoints/last.ckpt", "torch"), ("icnet.onnx", "opencv"), ("icnet.onnx", "openvino")):
        cut(image, "--net", net, "--runtime", runtime, "-o", runtime, cwd=folder)
        maps.append(np.asarray(Image.open(folder / runtime / "classes/0065.png")))
    assert all((map_ != maps[0]).mean() < 0.002 for map_ in maps)


def test_a_net_on_data_of_another_kind_is_refused(trained):
    folder, _ = trained
    camvid(folder / "data", "val", 2)
    printed = run("eval.py", "checkpoint=run/checkpoints/last.ckpt", "data=camvid", cwd=folder, ok=False)
    assert "tells sky, ground, house, tree, ball apart, but CamVid val has sky, building" in printed
    printed = run("eval.py", "checkpoint=lite-half", "data=camvid", cwd=folder, ok=False)
    assert "lite-half makes masks and CamVid val has classes" in printed


def test_the_doctor_knows_camvid_and_names_bad_labels(tmp_path):
    root = camvid(tmp_path, "train", 7)
    annotations = root / "CamVid/trainannot"
    strange = np.asarray(Image.open(annotations / "0001.png")).copy()
    strange[0, :3] = (12, 77, 200)
    save(annotations / "0001.png", strange)
    Image.open(annotations / "0002.png").convert("RGB").save(annotations / "0002.png")
    labels = np.asarray(Image.open(annotations / "0003.png"))
    paletted = Image.fromarray(labels, "P")
    paletted.putpalette([255 - value for value in range(256) for _ in range(3)])
    paletted.save(annotations / "0003.png")
    save(annotations / "0004.png", np.full((96, 128), 11, np.uint8))
    (annotations / "0005.png").unlink()
    reports, _ = diagnose(str(root), ["camvid_train"])
    report = reports["camvid_train"]
    kinds = {finding.name: finding.kind for finding in report.findings if finding.kind != "absent class"}
    assert kinds == {"0001": "bad labels", "0002": "bad labels", "0004": "no class", "0005": "no mask"}
    text = {finding.name: finding.text for finding in report.findings}
    assert "0001.png holds the class ids 12, 77, 200, which the set does not have: its ids are 0, 1, 2" in text["0001"]
    assert "0002.png holds colours (RGB), not class ids" in text["0002"]
    assert "no image of CamVid train shows bicyclist" in text["bicyclist"] and "sky" not in text
    table = dict(zip(*label_rows(reports), strict=True))
    assert table["found"] == "6" and table["published"] == "367" and table["bad labels"] == "2"
    assert len(rows(reports)) == 1, "the table of masks has no sets"
    # What has a palette is read by its indices.
    pairs = [pair for pair, _ in report.usable if pair.name == "0003"]
    assert pairs and np.array_equal(load_square(pairs[0], (96, 128))[1] == IGNORE, labels == 11)

    printed = run("u2slim.data.doctor", f"root={root}", "hydra.run.dir=out", cwd=tmp_path)
    assert "bad labels" in printed and "pavement" in printed and "doctor.png" in printed
    listed = json.loads((tmp_path / "out/doctor.json").read_text())["sets"]["camvid_train"]
    shares = [facts["pixels"] for facts in listed["classes"].values()]
    assert sum(shares) == pytest.approx(1, abs=1e-4) and listed["classes"]["sky"]["images"] == 3

    data = SemanticDataModule(str(root), ["camvid_train"], classes=11, size=[96, 128])
    with pytest.raises(UserError, match=r"(?s)3 pairs cannot be used.*0001.png holds the class ids.*data.on_bad=skip"):
        data.setup()
    lenient = SemanticDataModule(str(root), ["camvid_train"], classes=11, size=[96, 128], on_bad="skip")
    lenient.setup()
    assert len(lenient.train_pairs) + len(lenient.val_pairs) == 4


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("task=semantic", "data=duts"), "task=semantic needs data with classes, which data=duts has not"),
        (("data=sample_semantic",), "data=sample_semantic has classes, not masks of salient objects: add task=sem"),
        (("task=semantic", "data=cityscapes"), "gtFine_trainvaltest.zip need an account"),
        (("task=semantic", "data=sample_semantic", "data.size=[96]"), "data.size=[96]: give a side in pixels, or"),
        (("task=semantic", "data=sample_semantic", "model.classes=7"), "model.classes=7, but the data have 5"),
        (("task=semantic", "data=sample_semantic", "data.train=[duts_tr]"), "DUTS-TR has masks, not classes"),
        (
            (
                "task=semantic",
                "data=sample_semantic",
                "model=pspnet",
                *SMALL,
                "data.batch_size=1",
                "data.num_workers=0",
            ),
            "each process needs two images. Raise data.batch_size",
        ),
        (("task=semantic", "data=sample_semantic", "distill=teacher"), "distill=teacher is for nets that make masks"),
    ],
)
def test_settings_that_do_not_fit_end_in_a_sentence(trained, overrides, sentence):
    printed = run("train.py", *overrides, "trainer=cpu", cwd=trained[0], ok=False)
    assert sentence in printed and "Traceback" not in printed


def test_nets_and_tasks_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="model.classes=None, but the data have 3: leave model.classes to data.classes"):
        SemanticTask({"_target_": "u2slim.models.U2Net", "width": "lite"}, [32, 32], {"names": NAMES, "palette": []})
    with pytest.raises(UserError, match="task=semantic needs a net that takes classes: model=icnet, pspnet, fcn"):
        SemanticTask({"_target_": "u2slim.models.StandardConv"}, [32, 32], {"names": NAMES, "palette": []})
    with pytest.raises(UserError, match="task=semantic learns classes by loss=cascade"):
        tiny_task(loss=DeepSupervision())
    with pytest.raises(UserError, match="tells classes apart: train it with task=semantic"):
        SaliencyTask({"_target_": "u2slim.models.FCN", "width": 0.05, "backbone": "resnet18"}, 32)


def test_camvid_itself_is_read_whole():
    root = real_data()
    if root is None or not (root / "camvid").is_dir():
        pytest.skip("real data absent: set U2SLIM_DATA to a folder with camvid/")
    reports, _ = diagnose(str(root), ["camvid_train", "camvid_val"])
    assert [report.found for report in reports.values()] == [367, 101]
    findings = [finding for report in reports.values() for finding in report.findings]
    assert not findings, findings
    dataset = PairDataset([pair for pair, _ in reports["camvid_val"].usable], [90, 120])
    assert dataset[0]["image"].shape == (90, 120, 3) and int(dataset[0]["mask"].max()) in (*range(11), IGNORE)
