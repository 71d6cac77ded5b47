"""Sets of one's own, declared in a config: two folders or one, endings, and what is said where that is wrong."""

import csv
import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.conftest import TINY, run, write_set
from u2slim.data.catalog import CATALOG, get_data_set
from u2slim.data.data_set import DataSet
from u2slim.data.doctor import as_json, diagnose
from u2slim.data.own_sets import own_sets
from u2slim.data.pairs import Pair, find_pairs, list_pairs
from u2slim.data.saliency_datamodule import SaliencyDataModule
from u2slim.data.sample import render
from u2slim.data.semantic_datamodule import SemanticDataModule
from u2slim.errors import UserError

MINE = {"images": "photos", "masks": "masks"}


def mine(**keys) -> DataSet:
    return own_sets({"mine": MINE | keys})["mine"]


def write_together(folder, count: int = 4) -> None:
    """Pairs `0000.png` and `0000_mask.png` in one folder."""
    write_set(folder.parent / "apart", "images", "masks", count)
    folder.mkdir()
    for path in sorted((folder.parent / "apart/images").iterdir()):
        Image.open(path).save(folder / f"{path.stem}.png")
        shutil.copy(folder.parent / "apart/masks" / f"{path.stem}.png", folder / f"{path.stem}_mask.png")


def names(data_set: DataSet, root) -> list[tuple[str, str, str]]:
    return [(pair.name, pair.image.name, pair.mask.name) for pair in find_pairs(data_set, root)]


def test_a_set_of_ones_own_is_trained_on_and_scored(tmp_path):
    write_set(tmp_path, "photos", "masks", 12)
    own = ("data=own", "data.sets.own.images=photos", f"data.sets.own.masks={tmp_path / 'masks'}")
    steps = ("trainer.max_steps=1", "callbacks.checkpoint.every_n_train_steps=1")
    printed = run("train.py", "init=random", *own, *TINY, *steps, "hydra.run.dir=outputs/run", cwd=tmp_path)
    assert "training on 11 images, validating on 1" in printed
    with (tmp_path / "outputs/run/validation.csv").open() as file:
        [row] = csv.DictReader(file)
    assert row["set"] == "own" and int(row["name"]) in range(12)
    run("eval.py", "checkpoint=last", *own, "latency=0", "workers=1", "hydra.run.dir=outputs/eval", cwd=tmp_path)
    results = json.loads((tmp_path / "outputs/eval/metrics.json").read_text())["results"]
    assert [(result["data"], result["images"]) for result in results] == [("own", 12)] * 2


def test_one_image_is_trained_and_validated_on_with_a_warning(tmp_path):
    write_set(tmp_path, "photos", "masks", 1)
    own = ("data=own", "data.sets.own.images=photos", "data.sets.own.masks=masks", "init=random", *TINY)
    steps = ("trainer.max_steps=2", "callbacks.checkpoint.every_n_train_steps=1", "hydra.run.dir=run")
    printed = run("train.py", *own, *steps, cwd=tmp_path)
    assert "WARNING validating on the only training image" in printed
    assert "training on 1 images, validating on 1" in printed and "held out" not in printed
    assert json.loads((tmp_path / "run/metrics.json").read_text())["step"] == 2
    printed = run("train.py", *own, *steps, "resume=auto", "trainer.max_steps=3", cwd=tmp_path)
    assert "validation images as listed in" in printed


def test_a_single_pixel_before_a_batchnorm_is_a_sentence(tmp_path):
    write_set(tmp_path, "photos", "masks", 3)
    own = ("data=own", "data.sets.own.images=photos", "data.sets.own.masks=masks", "init=random", *TINY)
    options = (*own, "data.size=32", "data.batch_size=1", "trainer.max_steps=1", "hydra.run.dir=run")
    printed = run("train.py", *options, cwd=tmp_path, ok=False)
    assert "ERROR One image of this size is a single pixel before a BatchNorm" in printed
    assert "data.batch_size" in printed and "Traceback" not in printed


def write_frames(folder, seed: int, count: int, first: int = 0) -> None:
    """Photos of a camera that does not move: one scene, in which a small subject is at another place each time."""
    scene = render(seed, 0)[0]
    for name in ("photos", "masks"):
        (folder / name).mkdir(exist_ok=True)
    for index in range(first, first + count):
        y, x = np.random.default_rng(index).integers(20, min(scene.shape[:2]) - 40, 2)
        photo, mask = scene.copy(), np.zeros(scene.shape[:2], np.uint8)
        photo[y : y + 20, x : x + 20], mask[y : y + 20, x : x + 20] = (200, 30, 30), 255
        Image.fromarray(photo).save(folder / f"photos/{index:04d}.jpg", quality=95)
        Image.fromarray(mask).save(folder / f"masks/{index:04d}.png")


def sides(folder, **options) -> tuple[set[str], set[str]]:
    """The names of the training and of the validation images."""
    data = SaliencyDataModule(str(folder), ["mine"], sets={"mine": MINE}, **options)
    data.setup()
    return {pair.name for pair in data.train_pairs}, {pair.name for pair in data.val_pairs}


def test_frames_of_two_cameras_are_held_out_as_a_whole(tmp_path, caplog):
    write_frames(tmp_path, 1, 9)
    write_frames(tmp_path, 2, 3, first=9)
    listed = str(tmp_path / "validation.csv")
    for seed in range(3):  # the second time as they are listed
        train, val = sides(tmp_path, manifest=listed, seed=seed)
        assert val == {"0009", "0010", "0011"} and len(train) == 9
    assert "repeats_apart" not in caplog.text and "look like those held out" not in caplog.text


def test_frames_of_one_camera_are_divided_all_the_same_with_a_warning(tmp_path, caplog):
    write_frames(tmp_path, 1, 12)
    first = sides(tmp_path, manifest=str(tmp_path / "validation.csv"))
    assert tuple(map(len, first)) == (11, 1) and first[0].isdisjoint(first[1])
    assert "all 12 training images look like those held out" in caplog.text
    assert sides(tmp_path, manifest=str(tmp_path / "validation.csv"), seed=1) == first


def test_the_rule_of_repeats_can_be_turned_off(tmp_path, caplog):
    write_frames(tmp_path, 1, 9)
    write_frames(tmp_path, 2, 3, first=9)
    listed = str(tmp_path / "validation.csv")
    train, val = sides(tmp_path, repeats_apart=False, seed=1, manifest=listed)
    assert (len(train), len(val)) == (11, 1)
    assert "may look like training images (data.repeats_apart=false)" in caplog.text
    assert sides(tmp_path, repeats_apart=False, manifest=listed) == (train, val)
    with pytest.raises(UserError, match="is also in training"):
        sides(tmp_path, manifest=listed)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("limit_train", 0), ("limit_train", -1), ("batch_size", 0), ("val_batch_size", 2.5), ("num_workers", -1)),
        ("repeats_apart", "maybe"),
    ],
)
def test_a_number_that_makes_no_sense_is_named(setting, value):
    with pytest.raises(UserError, match=rf"data\.{setting}={value}: give "):
        SaliencyDataModule("data", ["duts_tr"], **{setting: value})


def test_folders_are_absolute_or_below_the_root_or_at_home(tmp_path, monkeypatch):
    write_set(tmp_path / "data", "photos", "masks", 3)
    expected = [(f"{i:04d}", f"{i:04d}.jpg", f"{i:04d}.png") for i in range(3)]
    assert names(mine(), tmp_path / "data") == expected
    assert names(mine(**{key: str(tmp_path / "data" / folder) for key, folder in MINE.items()}), "nowhere") == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names(mine(images="~/data/photos"), "~/data") == expected


def test_endings_tell_images_and_masks_apart_in_one_folder(tmp_path):
    write_together(tmp_path / "all")
    expected = [(f"{i:04d}", f"{i:04d}.png", f"{i:04d}_mask.png") for i in range(4)]
    for folder, again in (("all", "all"), ("all", "./all/../all")):
        for endings in (["", "_mask"], ["", "_MASK"], [".png", "_mask.png"]):
            assert names(mine(images=folder, masks=again, endings=endings), tmp_path) == expected, endings
    with pytest.raises(UserError, match=r"sets\.mine\.endings: .* one folder, .*must differ"):
        names(mine(images="all", masks="all", endings=["", ""]), tmp_path)


def test_endings_in_two_folders(tmp_path):
    write_set(tmp_path, "photos", "masks", 3)
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_name(f"{path.stem}_alpha.png"))
    assert [name for name, *_ in names(mine(endings=["", "_alpha"]), tmp_path)] == ["0000", "0001", "0002"]
    Image.new("RGB", (40, 40)).save(tmp_path / "photos/of_alpha.jpg")  # a photo all the same: it is in their folder
    listing = list_pairs(mine(endings=["", "_alpha"]), tmp_path)
    assert len(listing.pairs) == 3 and [(p.name, p.kind) for p in listing.problems] == [("of_alpha", "no mask")]


def test_photos_and_masks_of_one_folder_without_endings_are_jpeg_and_png(tmp_path):
    write_set(tmp_path, "all", "all", 2)
    assert names(mine(images="all", masks="all"), tmp_path) == [
        ("0000", "0000.jpg", "0000.png"),
        ("0001", "0001.jpg", "0001.png"),
    ]


def test_own_sets_stand_beside_published_ones(duts, caplog):
    write_set(duts, "photos", "masks", 3, first=20)
    write_set(duts, "more", "theirs", 2, first=30)
    sets = {"mine": MINE, "val-1": {"images": "more", "masks": "theirs", "title": "My own"}}
    test = {"mine": 2, "duts_te": None, "val-1": None}
    data = SaliencyDataModule(str(duts), ["duts_tr", "mine"], "val-1", test, sets=sets, val_count=2)
    with caplog.at_level("INFO"):
        data.setup()
    assert len(data.train_pairs) == 11 and {pair.set for pair in data.train_pairs} == {"duts_tr", "mine"}
    assert [f"{pair.set}/{pair.name}" for pair in data.val_pairs] == ["val-1/0030", "val-1/0031"]
    assert data.val_pairs[0].data_set.title == "My own" and data.train_pairs[-1].data_set.title == "mine"
    assert "mine:" not in caplog.text, "of one's own set it is not said how many are published"
    assert {name: len(pairs) for name, pairs in data.test_pairs().items()} == {"mine": 2, "duts_te": 4, "val-1": 2}


WRONG = {
    "data.sets.mine.mask is not known; the keys of a set are images, masks, endings, subject, title": {
        "mine": MINE | {"mask": 1}
    },
    "data.sets.mine.masks is missing: give the folder of the masks": {"mine": {"images": "photos"}},
    "data.sets.mine.images is missing": {"mine": MINE | {"images": None}},
    r"data.sets.mine.images is \['photos'\]: give the folder": {"mine": MINE | {"images": ["photos"]}},
    r"data.sets.mine.endings=_mask: give two": {"mine": MINE | {"endings": "_mask"}},
    r"data.sets.mine.endings=\['_mask'\]: give two": {"mine": MINE | {"endings": ["_mask"]}},
    "data.sets.mine.title=3: give a text": {"mine": MINE | {"title": 3}},
    "data.sets.ecssd: a set of that name is known already; choose another": {"ecssd": MINE},
    "data.sets.a/b: a set's name is made of letters": {"a/b": MINE},
    "data.sets.mine=photos: give {images: FOLDER, masks: FOLDER}": {"mine": "photos"},
    "data.sets=photos: give {NAME: {images: FOLDER, masks: FOLDER}}": "photos",
}


@pytest.mark.parametrize("sentence", WRONG)
def test_a_wrong_declaration_ends_in_a_sentence(sentence):
    with pytest.raises(UserError, match=sentence):
        SaliencyDataModule("data", ["mine"], sets=WRONG[sentence])


def test_missing_folders_and_folders_without_pairs_are_named(tmp_path):
    with pytest.raises(UserError, match=rf"sets\.mine\.images: there is no folder {tmp_path}/photos; mend it"):
        list_pairs(mine(), tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=rf"sets\.mine\.masks: there is no folder {tmp_path}/masks; mend it"):
        SaliencyDataModule(str(tmp_path), ["mine"], sets={"mine": MINE}).setup()
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match=r"no image has a mask: 0 images in .*photos \(looked for \.jpg"):
        list_pairs(mine(), tmp_path)
    write_set(tmp_path, "photos", "masks", 3)
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_name(f"truth{int(path.stem) + 7}.png"))
    text = (
        r"3 images in .*0000\.jpg, 0001\.jpg, 0002\.jpg\), 3 masks in .*truth7\.png, truth8\.png, truth9\.png\)\. "
        r"Tried: the same path but for the extension\. .*sets\.mine\.endings=\[IMAGES,MASKS\]"
    )
    with pytest.raises(UserError, match=text):
        SaliencyDataModule(str(tmp_path), test={"mine": None}, sets={"mine": MINE}).test_pairs()


def test_an_unknown_name_is_answered_with_ones_own_too():
    with pytest.raises(UserError, match="No data set is called 'mien'; the known ones: duts_tr.*, mine"):
        SaliencyDataModule("data", ["mien"], sets={"mine": MINE})
    with pytest.raises(UserError, match="mine has masks, not classes"):
        SemanticDataModule("data", ["mine"], sets={"mine": MINE}, classes=2)


def test_the_settings_that_lack_end_train_in_a_sentence(tmp_path):
    printed = run("train.py", "data=own", "init=random", *TINY, cwd=tmp_path, ok=False)
    assert "data.images is missing: give the folder of your photos" in printed and "Traceback" not in printed


def test_the_doctor_looks_at_ones_own_set(tmp_path):
    write_set(tmp_path, "photos", "masks", 3)
    Image.new("L", (9, 9)).save(tmp_path / "masks/0001.png")
    reports, across = diagnose(str(tmp_path), {"mine": MINE})
    assert [(finding.name, finding.kind) for finding in reports["mine"].findings] == [("0001", "other size")]
    assert as_json(reports, across)["sets"]["mine"]["found"] == 3


def test_pairs_stay_cheap_to_hash_and_to_send(tmp_path):
    image, mask = tmp_path / "a.jpg", tmp_path / "a.png"
    data_set = get_data_set("cityscapes_val")
    assert hash(data_set) == hash(data_set.name)
    pairs = [Pair(data_set, str(number), image, mask) for number in range(1000)]
    assert len(set(pairs)) == 1000
    bare = [(str(number), image, mask) for number in range(1000)]
    assert len(pickle.dumps(pairs)) < len(pickle.dumps(bare)) + 1000 * 30 + 5000, (
        "a set is sent once, not a thousand times"
    )
    assert pickle.loads(pickle.dumps(Pair(CATALOG["ecssd"], "a", image, mask))) == Pair(
        CATALOG["ecssd"], "a", image, mask
    )
