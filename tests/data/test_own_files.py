"""Photos and masks of one's own as people have them: which belong together, and what in a mask is the subject."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import TINY, run, write_set
from u2slim.data.doctor import diagnose
from u2slim.data.own_sets import own_sets
from u2slim.data.pairs import find_pairs
from u2slim.data.saliency_datamodule import SaliencyDataModule
from u2slim.errors import UserError
from u2slim.images.read import read_mask, read_stored


def pairs(root: Path, **keys) -> list:
    return find_pairs(own_sets({"mine": {"images": "photos", "masks": "masks"} | keys})["mine"], root)


def names(root: Path, **keys) -> list[tuple[str, str, str]]:
    return [(pair.name, pair.image.name, pair.mask.name) for pair in pairs(root, **keys)]


def mask_of(root: Path, **keys) -> np.ndarray:
    (pair,) = pairs(root, **keys)
    return read_mask(pair.mask)


@pytest.fixture
def one(tmp_path) -> Path:
    """A folder with one photo of 40x30 pixels and a folder for its mask."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (40, 30), "gray").save(tmp_path / "photos/a.jpg")
    return tmp_path


def square() -> np.ndarray:
    """True in a part of the photo."""
    part = np.zeros((30, 40), bool)
    part[5:20, 10:30] = True
    return part


@pytest.mark.parametrize("affix", [("", "_mask"), ("", "-gt"), ("mask_", ""), ("", " (1)")])
def test_what_masks_names_have_more_is_found_out(tmp_path, affix, caplog):
    write_set(tmp_path, "photos", "masks", 12)
    for path in sorted((tmp_path / "masks").iterdir()):
        path.rename(path.with_name(f"{affix[0]}{path.stem}{affix[1]}.png"))
    with caplog.at_level("INFO"):
        assert [name for name, *_ in names(tmp_path)] == [f"{i:04d}" for i in range(12)]
    assert f"belong together by the same path with {(affix[0] or affix[1])!r}" in caplog.text
    shutil.move(tmp_path / "photos", tmp_path / "all")
    for path in (tmp_path / "masks").iterdir():
        shutil.move(path, tmp_path / "all")
    for path in (tmp_path / "all").glob("*.jpg"):
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    assert len(names(tmp_path, images="all", masks="all")) == 12, "of one kind, in one folder"


def test_folders_below_count_and_need_not_be_alike(tmp_path):
    write_set(tmp_path, "photos/a", "masks/a", 2)
    write_set(tmp_path, "photos/b/c", "masks/b/c", 2)
    found = ["a/0000", "a/0001", "b/c/0000", "b/c/0001"]
    assert [name for name, *_ in names(tmp_path)] == found, "names repeat, paths do not"
    write_set(tmp_path / "x", "photos/deep/down", "masks", 3)
    assert [name for name, *_ in names(tmp_path / "x")] == [f"deep/down/000{i}" for i in range(3)]
    write_set(tmp_path / "y", "photos", "photos/masks", 3)
    assert [name for name, *_ in names(tmp_path / "y", masks="photos/masks")] == [f"000{i}" for i in range(3)]
    (tmp_path / "photos/a/.thumbnails").mkdir()
    shutil.copy(tmp_path / "photos/a/0000.jpg", tmp_path / "photos/a/.thumbnails/0000.jpg")
    assert [name for name, *_ in names(tmp_path)] == found


def test_transparency_numbers_and_colours_say_what_the_subject_is(one):
    part = square()
    rgba = np.full((30, 40, 4), 90, np.uint8)
    rgba[..., 3] = np.where(part, 200, 0)
    expected = np.where(part, 255, 0)
    Image.fromarray(rgba).save(one / "masks/a.png")
    np.testing.assert_array_equal(mask_of(one, subject="alpha"), expected)
    with pytest.raises(UserError, match="is a picture with transparency, not a mask; (?s:.*)data.subject=alpha"):
        read_stored(one / "masks/a.png")

    numbers = np.where(part, 3, 1).astype(np.uint8)
    numbers[0] = 0
    palette = Image.fromarray(numbers).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 255, 0, 0])
    palette.save(one / "masks/a.png")
    np.testing.assert_array_equal(mask_of(one, subject=[3]), expected)
    np.testing.assert_array_equal(mask_of(one, subject=3), expected)
    np.testing.assert_array_equal(mask_of(one, subject="any"), np.where(numbers > 0, 255, 0))
    np.testing.assert_array_equal(mask_of(one, subject=["#ff0000"]), expected)

    colours = np.where(part[..., None], (255, 0, 0), (0, 0, 255)).astype(np.uint8)
    Image.fromarray(colours).save(one / "masks/a.png")
    np.testing.assert_array_equal(mask_of(one, subject=["red"]), expected)
    np.testing.assert_array_equal(mask_of(one, subject=["#0000ff"]), 255 - expected)
    with pytest.raises(UserError, match="has no transparency"):
        read_mask(pairs(one, subject="alpha")[0].mask)
    with pytest.raises(UserError, match="dog is no colour, and the masks are no polygons"):
        pairs(one, subject=["dog"])


def test_cut_outs_are_photos_and_masks_at_once(one):
    shutil.rmtree(one / "masks")
    rgba = np.full((30, 40, 4), 90, np.uint8)
    rgba[..., 3] = np.where(square(), 255, 0)
    (one / "photos/a.jpg").unlink()
    Image.fromarray(rgba).save(one / "photos/a.png")
    np.testing.assert_array_equal(mask_of(one, masks=None, subject="alpha"), np.where(square(), 255, 0))


def labelme(path: Path, *shapes: tuple[str, str, list]) -> None:
    told = [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes]
    path.write_text(json.dumps({"imageHeight": 30, "imageWidth": 40, "imagePath": "a.jpg", "shapes": told}))


def test_polygons_of_labelme(one):
    corners = [[10, 5], [30, 5], [30, 20], [10, 20]]
    for folder in ("photos", "masks"):  # beside the photo, as labelme writes them, or apart
        path = one / folder / "a.json"
        labelme(path, ("cat", "polygon", corners), ("dog", "rectangle", [[0, 0], [4, 4]]), ("line", "line", [[1, 1]]))
        both = mask_of(one, masks=folder)
        assert set(np.unique(both)) == {0, 255} and both[2, 2] == 255
        cat = mask_of(one, masks=folder, subject=["cat"])
        np.testing.assert_array_equal(cat[6:19, 11:29], 255)
        assert cat[2, 2] == 0 and abs(int((cat > 0).sum()) - 300) <= 40
        path.unlink()
    labelme(one / "masks/a.json", ("cat", "circle", [[20, 15], [30, 15]]))
    assert abs(int((mask_of(one) > 0).sum()) - np.pi * 100) < 40
    (one / "masks/a.json").write_text("{}")
    with pytest.raises(UserError, match="a.json is no file of labelme's"):
        read_mask(pairs(one)[0].mask)


def coco(path: Path, segmentation: object) -> None:
    told = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 30, "width": 40}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "segmentation": segmentation},
            {"id": 2, "image_id": 7, "category_id": 2, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]},
        ],
    }
    path.write_text(json.dumps(told))


def test_polygons_of_coco(one):
    coco(one / "all.json", [[10, 5, 30, 5, 30, 20, 10, 20]])
    both, cat = mask_of(one, masks="all.json"), mask_of(one, masks="all.json", subject=["cat"])
    assert both[2, 2] == 255 and cat[2, 2] == 0
    np.testing.assert_array_equal(cat[6:19, 11:29], 255)
    with pytest.raises(UserError, match="has no category 'bird'; it has cat, dog"):
        pairs(one, masks="all.json", subject=["bird"])
    coco(one / "all.json", {"counts": [1, 2], "size": [30, 40]})
    with pytest.raises(UserError, match="annotation 1 is a run-length mask; export polygons"):
        pairs(one, masks="all.json")
    (one / "all.json").write_text("[1, 2")
    with pytest.raises(UserError, match=r"all\.json cannot be read as JSON"):
        pairs(one, masks="all.json")


def own(root: Path, **settings) -> SaliencyDataModule:
    data = SaliencyDataModule(str(root), ["own"], test={"own": None}, **settings)
    data.setup()
    return data


def test_a_table_of_pairs_divides_them(tmp_path):
    write_set(tmp_path, "x", "y", 8)
    rows = ["image,mask,split"]
    rows += [
        f"x/{i:04d}.jpg,y/{i:04d}.png,{('train', 'val', 'test')[min(2, i // 4)] if i != 7 else ''}" for i in range(8)
    ]
    rows[1:3] = [f"x/{i:04d}.jpg,y/{i:04d}.png,test" for i in range(2)]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    data = own(tmp_path, images="pairs.csv")
    assert sorted(pair.name for pair in data.train_pairs) == ["x/0002", "x/0003", "x/0007"]
    assert [pair.name for pair in data.val_pairs] == ["x/0004", "x/0005", "x/0006"]
    assert {name: [pair.name for pair in found] for name, found in data.test_pairs().items()} == {
        "own_test": ["x/0000", "x/0001"]
    }
    (tmp_path / "pairs.csv").write_text("image,mask\nx/0000.jpg,y/none.png\n")
    with pytest.raises(UserError, match=r"lists .*none\.png, which is not there; paths start from the table's folder"):
        own(tmp_path, images="pairs.csv")
    (tmp_path / "pairs.csv").write_text("photo,mask\na,b\n")
    with pytest.raises(UserError, match="needs rows under the columns image and mask"):
        own(tmp_path, images="pairs.csv")


def test_training_takes_the_masks_of_numbers_and_of_polygons(tmp_path):
    write_set(tmp_path, "photos", "truth", 6)
    (tmp_path / "masks").mkdir()
    for path in (tmp_path / "truth").iterdir():
        numbers = np.where(np.asarray(Image.open(path)) > 127, 8, 3).astype(np.uint8)
        Image.fromarray(numbers).save(tmp_path / "masks" / path.name)
    expected = own(tmp_path, images="photos", masks="truth").train_pairs
    for subject in (3, 8):  # the second time the same files are looked at another way
        made = own(tmp_path, images="photos", masks="masks", subject=subject).train_pairs
        assert len(made) == 5
        for ours, theirs in zip(made, expected, strict=True):
            truth = np.where(read_mask(theirs.mask) > 127, 255, 0)
            np.testing.assert_array_equal(read_mask(ours.mask), truth if subject == 8 else 255 - truth)
    reports, _ = diagnose(str(tmp_path), {"own": {"images": "photos", "masks": "masks", "subject": 9}})
    assert {finding.kind for finding in reports["own"].findings} == {"empty mask"}


def test_what_validates_is_a_share_a_folder_or_a_list(tmp_path):
    write_set(tmp_path, "photos", "masks", 10)
    write_set(tmp_path, "more", "theirs", 2, first=30)
    both = {"images": "photos", "masks": "masks"}
    assert len(own(tmp_path, **both, val_share=0.3).val_pairs) == 3
    data = own(tmp_path, **both, val_images="more", val_masks="theirs")
    assert [pair.name for pair in data.val_pairs] == ["0030", "0031"] and len(data.train_pairs) == 10
    (tmp_path / "val.txt").write_text("0001.jpg\n\n0004  # blurred\n")
    data = own(tmp_path, **both, val_list=str(tmp_path / "val.txt"))
    assert [pair.name for pair in data.val_pairs] == ["0001", "0004"] and len(data.train_pairs) == 8
    (tmp_path / "val.txt").write_text("0001\n0077\n")
    with pytest.raises(UserError, match=r"1 of 2 names are no images of the set, e\.g\. 0077; a name looks like 0000"):
        own(tmp_path, **both, val_list=str(tmp_path / "val.txt"))
    with pytest.raises(UserError, match=r"data\.val_share=1\.5: give a part"):
        own(tmp_path, **both, val_share=1.5)


def test_nothing_is_renamed_from_the_command_line_to_the_doctor(tmp_path):
    write_set(tmp_path, "photos/2024", "masks/2024", 12)
    for path in (tmp_path / "masks/2024").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    given = ("data=own", "data.images=photos", "data.masks=masks")
    steps = ("trainer.max_steps=1", "callbacks.checkpoint.every_n_train_steps=1", "hydra.run.dir=run")
    printed = run("train.py", "init=random", *given, "data.val_share=.25", *TINY, *steps, cwd=tmp_path)
    assert "training on 9 images, validating on 3" in printed
    run(
        "eval.py",
        "checkpoint=run/checkpoints/last.ckpt",
        *given,
        "latency=0",
        "workers=1",
        "hydra.run.dir=e",
        cwd=tmp_path,
    )
    results = json.loads((tmp_path / "e/metrics.json").read_text())["results"]
    assert {(result["data"], result["images"]) for result in results} == {("own", 12)}
    reports, _ = diagnose(str(tmp_path), {"own": {"images": "photos", "masks": "masks"}})
    assert reports["own"].found == 12 and not reports["own"].findings
