"""Classes of one's own: how they are declared, what label files of every kind hold, and what is said of wrong ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import run
from u2slim.data.contact_sheet import write_sheet
from u2slim.data.dataset import PairDataset, load_pair, load_square
from u2slim.data.doctor import diagnose
from u2slim.data.labels import IGNORE
from u2slim.data.own_labels import own_labels
from u2slim.data.own_sets import own_sets
from u2slim.data.pairs import find_pairs
from u2slim.data.saliency_datamodule import SaliencyDataModule
from u2slim.data.scenes import render_scene
from u2slim.data.semantic_datamodule import SemanticDataModule
from u2slim.errors import BadLabels, UserError

BOTH = {"images": "photos", "masks": "labels"}
NAMES = ["sky", "ground", "house", "tree", "ball"]


@pytest.fixture
def one(tmp_path) -> Path:
    """A folder with one photo of 40x30 pixels and a folder for its labels."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (40, 30), "gray").save(tmp_path / "photos/a.jpg")
    return tmp_path


def stripes(*values) -> np.ndarray:
    """30x40 pixels (x channels), in as many upright stripes of one value each."""
    return np.repeat(np.repeat(np.array(values)[None], 40 // len(values), 1), 30, 0)


def save(root: Path, values: np.ndarray, name: str = "a.png", dtype=np.uint8) -> None:
    Image.fromarray(values.astype(dtype)).save(root / "labels" / name)


def classes_of(root: Path, **keys) -> np.ndarray:
    (pair,) = find_pairs(own_sets({"mine": BOTH | keys})["mine"], root)
    return load_pair(pair)[1]


def test_ids_are_places_in_the_list_or_fold_into_the_class_that_names_them(one):
    save(one, stripes(0, 2, 1, IGNORE))
    assert (classes_of(one, labels=["a", "b", "c"]) == stripes(0, 2, 1, IGNORE)).all()
    assert (classes_of(one, labels={"a": None, "b": {}, "c": "#ff0000"}) == stripes(0, 2, 1, IGNORE)).all()
    save(one, stripes(7, 26, 27, 300), dtype=np.uint16)
    labels = {"road": 7, "car": {"ids": [26, 27]}, "sign": {"id": 300}}
    assert (classes_of(one, labels=labels) == stripes(0, 1, 1, 2)).all()
    save(one, stripes(0, 255))  # 255 is no class unless one has it
    assert (classes_of(one, labels={"a": 0, "b": 255}) == stripes(0, 1)).all()
    save(one, stripes(True, False), dtype=bool)
    assert (classes_of(one, labels=["a", "b"]) == stripes(1, 0)).all()


def test_what_no_class_names_is_an_error_unless_it_is_ignored_or_folded(one):
    save(one, stripes(0, 7, 9, 1))
    with pytest.raises(BadLabels, match=r"a\.png holds the ids 7, 9, which stand for no class: .* or give others=ign"):
        classes_of(one, labels=["a", "b"])
    with pytest.raises(BadLabels, match="holds the ids 9,"):
        classes_of(one, labels=["a", "b"], ignore=7)
    assert (classes_of(one, labels=["a", "b"], ignore=[7, 9]) == stripes(0, IGNORE, IGNORE, 1)).all()
    assert (classes_of(one, labels=["a", "b"], others="ignore") == stripes(0, IGNORE, IGNORE, 1)).all()
    assert (classes_of(one, labels=["a", "b"], others="b", ignore=[9]) == stripes(0, 1, IGNORE, 1)).all()


def test_palettes_are_read_by_their_indices_and_colours_by_the_declared_ones(one):
    paletted = Image.fromarray(stripes(2, 0, 1, 1).astype(np.uint8), "P")
    paletted.putpalette([9, 9, 9, 0, 0, 0, 200, 0, 0])
    paletted.save(one / "labels/a.png")
    labels = {"road": {"colour": "#804080"}, "car": {"colours": [[0, 0, 142], "red"]}, "sky": [0, 9]}
    assert (classes_of(one, labels=["a", "b", "c"]) == stripes(2, 0, 1, 1)).all()
    save(one, stripes((0, 0, 142), (128, 64, 128), (255, 0, 0), (0, 0, 0)))
    with pytest.raises(BadLabels, match="holds the colours #000000, which stand for no class"):
        classes_of(one, labels=labels)
    assert (classes_of(one, labels=labels, ignore="#000000") == stripes(1, 0, 1, IGNORE)).all()
    assert (classes_of(one, labels=labels, others="sky") == stripes(1, 0, 1, 2)).all()
    with pytest.raises(BadLabels, match=r"holds colours, but no class has one: declare them"):
        classes_of(one, labels=["a", "b", "c"])
    save(one, stripes((1, 1, 1), (0, 0, 0)))  # ids that were saved in three channels
    assert (classes_of(one, labels=["a", "b"]) == stripes(1, 0)).all()
    (one / "labels/a.png").unlink()
    save(one, stripes(0, 1), "a.jpg")
    with pytest.raises(BadLabels, match=r"a\.jpg has a format that may change labels .* save them as PNG"):
        classes_of(one, labels=["a", "b"])


def rectangle(label: str, box: tuple[int, int, int, int]) -> dict:
    left, top, right, bottom = box
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return {"label": label, "points": corners, "shape_type": "polygon"}


def test_polygons_are_drawn_in_their_order_over_the_background(one):
    (one / "labels").rmdir()
    shapes = [rectangle("car", (4, 4, 20, 20)), rectangle("wheel", (4, 12, 10, 20)), rectangle("mud", (30, 0, 40, 30))]
    (one / "photos/a.json").write_text(json.dumps({"imageHeight": 30, "imageWidth": 40, "shapes": shapes}))

    def seen(**keys) -> list[int]:
        """Outside, of the car, of the wheel on it, and of the mud."""
        classes = classes_of(one, **keys)
        assert classes.shape == (30, 40)
        return [int(classes[at]) for at in ((2, 2), (8, 8), (15, 7), (10, 35))]

    labels = {"background": {}, "car": {}, "part": {"labels": ["wheel", "door"]}}
    folders = {"masks": "photos", "ignore": "mud"}
    assert seen(labels=labels, **folders) == [0, 1, 2, IGNORE]
    assert seen(labels={"car": {}, "part": {"labels": "wheel"}}, **folders) == [IGNORE, 0, 1, IGNORE]
    with pytest.raises(BadLabels, match=r"a\.json holds the labels mud, which stand for no class"):
        seen(labels=labels, masks="photos")

    drawn = [{"id": n, "image_id": 1, "category_id": n, "segmentation": [polygon]} for n, polygon in enumerate(
        [np.ravel(shape["points"]).tolist() for shape in shapes]
    )]  # fmt: skip
    categories = [{"id": n, "name": shape["label"]} for n, shape in enumerate(shapes)]
    image = {"id": 1, "file_name": "a.jpg", "height": 30, "width": 40}
    coco = {"images": [image], "annotations": drawn, "categories": categories}
    (one / "all.json").write_text(json.dumps(coco))
    assert seen(labels=labels, masks="all.json", ignore=["mud"]) == [0, 1, 2, IGNORE]
    with pytest.raises(BadLabels, match=r"all\.json holds the labels mud"):
        seen(labels=labels, masks="all.json")


WRONG = {
    r"data\.labels=sky: give the classes' names": "sky",
    r"data\.labels: 0 is no name for a class": [0, 1],
    r"data\.labels: 'a,b' is no name": ["a,b", "c"],
    r"data\.labels: True is no name": {True: 0, "b": 1},
    r"data\.labels: two classes are called a;": ["a", "b", "a"],
    r"data\.labels has 1 classes; give 2 to 254": ["a"],
    r"data\.labels has 255 classes": [f"c{number}" for number in range(255)],
    r"data\.labels\.b has no id, which other classes have": {"a": 3, "b": None},
    r"data\.labels\.a\.ids=1\.5: give whole numbers from 0 to 65535": {"a": [1.5], "b": 1},
    r"data\.labels\.a\.ids=-1: give whole": {"a": {"ids": -1}, "b": 1},
    r"data\.labels\.a\.colour=reddish is no colour": {"a": {"colour": "reddish"}, "b": {}},
    r"data\.labels\.a\.colours=\[1, 2\] is no colour": {"a": {"colours": [1, 2]}, "b": {}},
    r"data\.labels\.a\.colour is empty; put a colour such as '#804080' in quotes": {"a": {"colour": None}, "b": {}},
    r"data\.labels\.a\.train_id is not known; the keys of a class are ids, colours, labels": {
        "a": {"train_id": 1},
        "b": 2,
    },
    r"data\.labels: the id 4 stands for a and for b": {"a": 4, "b": [3, 4]},
    r"data\.labels: the id 9 stands for b and for no class": {"a": 4, "b": 9},
    r"data\.labels: the colour #ff0000 stands for a and for b": {"a": "red", "b": {"colour": [255, 0, 0]}},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_a_wrong_declaration_is_a_sentence(sentence):
    with pytest.raises(UserError, match=sentence):
        own_labels(WRONG[sentence], [9], None, "data")


def test_settings_that_do_not_go_together_are_named(one):
    with pytest.raises(UserError, match=r"data\.others=c: give error, ignore, or a class: a, b"):
        own_labels(["a", "b"], None, "c", "data")
    with pytest.raises(UserError, match=r"mine\.subject is for masks"):
        own_sets({"mine": BOTH | {"labels": ["a", "b"], "subject": "any"}})
    with pytest.raises(UserError, match=r"mine\.ignore belongs to .*mine\.labels, which is not given"):
        own_sets({"mine": BOTH | {"ignore": 3}})
    with pytest.raises(UserError, match=r"the label b stands for b and for no class"):
        own_labels(["a", "b"], "b", None, "data")
    with pytest.raises(UserError, match=r"mine has classes, not masks: it is for task=semantic"):
        SaliencyDataModule(str(one), ["mine"], sets={"mine": BOTH | {"labels": ["a", "b"]}})
    with pytest.raises(UserError, match=r"own has masks, not classes: name your classes .*data\.labels=\[sky,road"):
        SemanticDataModule(str(one), ["own"], **BOTH)


def test_colours_that_are_not_given_are_distinct_and_always_the_same():
    names = [f"class {number}" for number in range(254)]
    labels, _ = own_labels(names, None, None, "data")
    assert len({*labels.palette}) == 254 and (0, 0, 0) not in labels.palette
    assert labels.palette[:4] == ((128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))  # as PASCAL VOC's
    some, _ = own_labels({"a": 3, "b": {"id": 5, "color": "#800000"}, "c": [7]}, None, None, "data")
    assert some.palette == ((0, 128, 0), (128, 0, 0), (128, 128, 0))


def write_scenes(root: Path, count: int, first: int = 0, photos: str = "photos", labels: str = "labels") -> None:
    """Scenes whose classes are stored as 10, 20, 30, 40, 50, and as 0 what has none."""
    for folder in (photos, labels):
        (root / folder).mkdir(exist_ok=True)
    for index in range(first, first + count):
        image, classes = render_scene(3, index)
        Image.fromarray(image).save(root / photos / f"{index:04d}.jpg", quality=95)
        stored = np.where(classes == IGNORE, 0, 10 * classes + 10).astype(np.uint8)
        Image.fromarray(stored).save(root / labels / f"{index:04d}.png")


TENS = {name: 10 * number + 10 for number, name in enumerate(NAMES)}


def module(root: Path, **settings) -> SemanticDataModule:
    data = SemanticDataModule(
        str(root), **{"train": ["own"], "size": [96, 128], "ignore": 0, "labels": TENS} | settings
    )
    data.setup()
    return data


def names(pairs) -> list[str]:
    return [f"{pair.set}/{pair.name}" for pair in pairs]


def test_what_validates_is_given_as_for_masks_and_sets_may_be_several(tmp_path):
    write_scenes(tmp_path, 10)
    write_scenes(tmp_path, 2, 20, "more", "theirs")
    data = module(tmp_path, **BOTH, val_share=0.3)
    assert (len(data.train_pairs), len(data.val_pairs)) == (7, 3) and data.labels.names == tuple(NAMES)
    counted = [np.bincount(load_square(pair, [96, 128])[1].ravel(), minlength=256)[:5] for pair in data.train_pairs]
    assert (data.class_pixels() == counted).all()
    (tmp_path / "val.txt").write_text("0003.jpg\n0007\n")
    assert names(module(tmp_path, **BOTH, val_list=str(tmp_path / "val.txt")).val_pairs) == ["own/0003", "own/0007"]
    data = module(tmp_path, **BOTH, val_images="more", val_masks="theirs")
    assert names(data.val_pairs) == ["own_val/0020", "own_val/0021"] and len(data.train_pairs) == 10
    rows = [
        f"photos/{i:04d}.jpg,labels/{i:04d}.png,{'test' if i > 7 else 'val' if i > 5 else 'train'}" for i in range(10)
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,mask,split", *rows]))
    data = module(tmp_path, images="pairs.csv", test={"own": None})
    assert (len(data.train_pairs), len(data.val_pairs)) == (6, 2) and list(data.test_pairs()) == ["own_test"]

    # The second set has ids of its own for the same classes.
    for path in (tmp_path / "theirs").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) // 10).save(path)
    theirs = {
        "images": "more",
        "masks": "theirs",
        "labels": {name: id_ // 10 for name, id_ in TENS.items()},
        "ignore": 0,
    }
    unused = {"images": None, "masks": None, "labels": None}
    sets = {"own": unused, "mine": BOTH, "theirs": theirs}
    data = module(tmp_path, train=["mine", "theirs"], test={"own": None}, sets=sets)
    assert len(data.train_pairs) == 11 and {pair.set for pair in data.train_pairs} == {"mine", "theirs"}
    assert {name: len(pairs) for name, pairs in data.test_pairs().items()} == {"mine": 10, "theirs": 2}
    pair = next(pair for pair in data.train_pairs if pair.set == "theirs")
    assert (load_pair(pair)[1] == render_scene(3, int(pair.name))[1]).all()
    with pytest.raises(UserError, match="must have the same classes"):
        module(tmp_path, train=["mine", "theirs"], sets=sets | {"theirs": theirs | {"labels": {"a": 1, "b": 2}}})


def test_another_declaration_reads_the_same_files_anew(tmp_path):
    write_scenes(tmp_path, 4)
    for labels in (TENS, {"things": [30, 40, 50], "rest": [10, 20]}):
        data = module(tmp_path, labels=labels, cache=str(tmp_path / "cache"), **BOTH)
        for _ in range(2):  # made, and kept
            masks = [sample["mask"] for sample in PairDataset(data.train_pairs, data.size, cache=data.cache)]
            assert {*np.unique(masks)} == {*range(len(labels)), IGNORE}
        counts = [np.bincount(np.ravel(mask), minlength=256)[: len(labels)] for mask in masks]
        assert (data.class_pixels() == counts).all()


def test_the_doctor_counts_own_classes_and_shows_bad_labels(tmp_path):
    write_scenes(tmp_path, 5)
    strange = np.asarray(Image.open(tmp_path / "labels/0001.png")).copy()
    strange[0, :2] = (12, 77)
    Image.fromarray(strange).save(tmp_path / "labels/0001.png")
    own = {"own": BOTH | {"labels": TENS | {"cat": 60}, "ignore": [0]}}
    report = diagnose(str(tmp_path), own)[0]["own"]
    found = {finding.kind: finding.text for finding in report.findings}
    assert "0001.png holds the ids 12, 77, which stand" in found["bad labels"] and "shows cat" in found["absent class"]
    write_sheet(tmp_path / "sheet.png", [finding for finding in report.findings if finding.pairs], 2)
    assert Image.open(tmp_path / "sheet.png").size[0] > 100

    settings = (
        "own.images=photos",
        "own.masks=labels",
        "own.labels={" + ",".join(f"{n}:{i}" for n, i in TENS.items()) + "}",
    )
    printed = run("u2slim.data.doctor", "root=.", *settings, "own.others=ignore", "hydra.run.dir=out", cwd=tmp_path)
    facts = json.loads((tmp_path / "out/doctor.json").read_text())["sets"]["own"]
    assert "house" in printed and facts["usable"] == 5 and facts["classes"]["sky"]["images"] == 5
