"""The list of validation images, and what counts as the same picture."""

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import write_set
from u2slim.data.check import Record, examine
from u2slim.data.data_set import DataSet
from u2slim.data.duplicates import DuplicateIndex
from u2slim.data.pairs import Pair
from u2slim.data.saliency_datamodule import SaliencyDataModule
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.images.read import Loaded


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_set(root / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 8)
    write_set(root / "ECSSD", "images", "ground_truth_mask", 6, first=20)
    return root


@pytest.fixture
def root(pristine, tmp_path) -> Path:
    """Eight training pairs, 0000 to 0007, and six of another set, 0020 to 0025, that may be changed."""
    return Path(shutil.copytree(pristine, tmp_path / "data"))


def start(root: Path, manifest: Path | None = None, val=("ecssd",), **options) -> SaliencyDataModule:
    data = SaliencyDataModule(str(root), ["duts_tr"], val, manifest=manifest and str(manifest), **options)
    data.setup()
    return data


def listed(data: SaliencyDataModule) -> str:
    return data.state_dict()["validation images"]


def names(pairs) -> list[str]:
    return [pair.name for pair in pairs]


def files(root: Path, name: str) -> tuple[Path, Path]:
    """The image and the mask of a pair of either set."""
    folder, images, masks = (
        ("DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask") if name < "0020" else ("ECSSD", "images", "ground_truth_mask")
    )
    return root / folder / images / f"{name}.jpg", root / folder / masks / f"{name}.png"


def copy(root: Path, name: str, to: str, image=lambda picture: picture, quality: int | None = None) -> None:
    """Another pair with the picture of `name`: the same bytes, or with `quality` a changed picture saved anew."""
    (photo, mask), (new_photo, new_mask) = files(root, name), files(root, to)
    if quality is None:
        shutil.copy(photo, new_photo)
        shutil.copy(mask, new_mask)
    else:
        picture = image(Image.open(photo))
        picture.save(new_photo, quality=quality)
        Image.open(mask).resize(picture.size, Image.Resampling.NEAREST).save(new_mask)


CHANGES = {
    "a copy": {},
    "saved anew": {"quality": 40},
    "half as large": {"quality": 90, "image": lambda picture: picture.reduce(2)},
    "brighter": {"quality": 90, "image": lambda picture: picture.point(lambda value: min(255, round(1.1 * value)))},
    "gray": {"quality": 90, "image": lambda picture: picture.convert("L")},
}


def test_the_list_is_written_once_and_used_whatever_the_seed(root, tmp_path, caplog):
    path = tmp_path / "run" / "validation.csv"
    first = start(root, path, val_count=3, seed=1)
    header, *rows = path.read_text().splitlines()
    assert header == "set,name,image,mask" and len(rows) == 3
    assert [row.split(",")[:2] for row in rows] == [["ecssd", name] for name in names(first.val_pairs)]
    assert all(len(hash_) == 32 for row in rows for hash_ in row.split(",")[2:])
    written = path.stat()
    with caplog.at_level("INFO"):
        second = start(root, path, val_count=5, seed=2)
    assert second.val_pairs == first.val_pairs and listed(second) == listed(first)
    assert path.stat() == written
    assert f"validation images as listed in {path}" in caplog.text


def test_one_seed_draws_one_list_and_another_seed_another(root, tmp_path):
    drawn = {seed: start(root, tmp_path / f"{seed}.csv", val_count=3, seed=seed) for seed in range(6)}
    again = start(root, tmp_path / "again.csv", val_count=3, seed=4)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "4.csv").read_bytes()
    assert names(start(root, val_count=3, seed=4).val_pairs) == names(again.val_pairs)
    assert len({tuple(names(data.val_pairs)) for data in drawn.values()}) > 2
    assert len({listed(data) for data in drawn.values()}) > 2


def test_all_images_that_have_changed_or_gone_are_named(root, tmp_path):
    path = tmp_path / "validation.csv"
    start(root, path, val_count=6)
    image, mask = files(root, "0020")
    Image.open(image).save(image, quality=80)
    image, mask = files(root, "0022")
    Image.fromarray(255 - np.array(Image.open(mask))).save(mask)
    for file in files(root, "0023"):
        file.unlink()
    for file in files(root, "0025"):
        file.rename(file.with_stem("0026"))
    with pytest.raises(UserError) as refusal:
        start(root, path)
    first, *rest = str(refusal.value).splitlines()
    assert first == f"4 of 6 validation images of {path} cannot be used:"
    assert [line.strip() for line in rest[:-1]] == [
        "ecssd/0020 has changed",
        "ecssd/0022 has changed",
        "ecssd/0023 is not there",
        "ecssd/0025 is not there",
    ]
    assert f"or delete {path} to draw" in rest[-1]


@pytest.mark.parametrize("change", CHANGES)
def test_a_picture_of_the_training_is_never_drawn(root, change, caplog):
    for index, name in enumerate(["0020", "0022", "0023", "0025"]):
        copy(root, name, f"001{index}", **CHANGES[change])
    data = start(root, val_count=6)
    assert names(data.val_pairs) == ["0021", "0024"] and len(data.train_pairs) == 12
    assert "only 2 validation images were found, 6 were asked for" in caplog.text


def test_a_picture_that_the_pool_holds_twice_is_drawn_once(root):
    copy(root, "0020", "0030")
    copy(root, "0021", "0031", **CHANGES["saved anew"])
    copy(root, "0022", "0032", **CHANGES["half as large"])
    for seed in range(4):
        drawn = names(start(root, val_count=9, seed=seed).val_pairs)
        assert len(drawn) == 6
        assert {f"{int(name) % 10}" for name in drawn} == set("012345")


def test_held_out_images_leave_the_training_and_no_copy_stays_there(root, tmp_path):
    for index in range(1, 8):
        copy(root, f"000{index}", f"001{index}", **list(CHANGES.values())[index % 3])
    for seed in range(4):
        path = tmp_path / f"{seed}.csv"
        data = start(root, path, val=(), val_count=1000, seed=seed)
        assert names(data.val_pairs) == ["0000"] and len(data.train_pairs) == 14
        assert "0000" not in names(data.train_pairs)
        again = start(root, path, val=(), seed=seed + 1)
        assert (again.val_pairs, again.train_pairs) == (data.val_pairs, data.train_pairs)


def test_a_listed_image_whose_copy_has_come_into_training_is_refused(root, tmp_path):
    path, held = tmp_path / "validation.csv", tmp_path / "held.csv"
    start(root, path, val_count=6)
    name = names(start(root, held, val=(), val_count=1).val_pairs)[0]
    copy(root, "0021", "0011")
    copy(root, "0022", "0012", **CHANGES["saved anew"])
    with pytest.raises(UserError) as refusal:
        start(root, path)
    assert "2 of 6 validation images" in str(refusal.value)
    assert "ecssd/0021 is also in training, as duts_tr/0011" in str(refusal.value)
    assert "ecssd/0022 is also in training, as duts_tr/0012" in str(refusal.value)
    copy(root, name, "0013", **CHANGES["half as large"])
    with pytest.raises(UserError, match=f"duts_tr/{name} is also in training, as duts_tr/0013"):
        start(root, held, val=())


def test_a_list_that_a_spreadsheet_has_saved_is_read(root, tmp_path):
    path = tmp_path / "validation.csv"
    first = start(root, path, val_count=3)
    rows = [line.split(",")[::-1] for line in path.read_text().splitlines()]
    path.write_bytes("\ufeff".encode() + "".join(",".join(row) + "\r\n" for row in rows).encode())
    assert start(root, path).val_pairs == first.val_pairs


DAMAGED = {
    "empty": b"",
    "only a header": b"set,name,image,mask\n",
    "text": b"These are the images that I like best.\n0020\n0021\n",
    "other columns": b"image,mask\n0020.jpg,0020.png\n",
    "a photo": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\xa4\xb3" * 50,
    "zeros": bytes(1000),
    "half a row": b"set,name,image,mask\necssd,0020,d41d8cd98f00",
    "a huge cell": b"set,name,image,mask\necssd," + b"0" * 200_000,
    "a row twice": b"",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_list_is_named_and_never_replaced(root, tmp_path, damage):
    path = tmp_path / "validation.csv"
    if damage == "a row twice":
        start(root, path, val_count=3)
        path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    else:
        path.write_bytes(DAMAGED[damage])
    before = path.read_bytes()
    with pytest.raises(UserError, match=str(path)):
        start(root, path)
    assert path.read_bytes() == before


def test_a_list_that_cannot_be_written_says_so(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="validation.csv cannot be written"):
        start(root, tmp_path / "file" / "validation.csv")


def look(picture: Image.Image, **options) -> Record:
    """What is known of a picture, saved with `options` (a JPEG of quality 95 without)."""
    encoded, mask = BytesIO(), BytesIO()
    picture.save(encoded, **(options or {"format": "JPEG", "quality": 95}))
    Image.new("L", picture.size, 255).save(mask, "PNG")
    record = examine(Pair(DataSet("set"), "name", Loaded("image", encoded.getvalue()), Loaded("mask", mask.getvalue())))
    assert not record.kind, record.problem
    return record


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.fromarray(render(5, index)[0]) for index in range(40)]


def test_no_two_different_pictures_are_duplicates(pictures):
    records = [look(picture) for picture in pictures]
    duplicates = DuplicateIndex(records)
    assert [duplicates.find(record) for record in records] == [[index] for index in range(len(records))]
    assert duplicates.find(records[7], end=8) == [7] and duplicates.find(records[7], end=7) == []


def test_changed_copies_are_duplicates(pictures):
    duplicates = DuplicateIndex([look(picture) for picture in pictures])
    for index, picture in enumerate(pictures[:12]):
        half, brighter = picture.reduce(2), picture.point(lambda value: min(255, round(1.1 * value)))
        assert duplicates.find(look(picture)) == [index]
        assert duplicates.find(look(picture, format="JPEG", quality=40)) == [index]
        assert duplicates.find(look(half, format="PNG")) == [index]
        assert duplicates.find(look(brighter, format="WEBP", quality=60)) == [index]


def test_flat_pictures_are_duplicates_only_byte_for_byte():
    flat = [
        look(Image.new("RGB", size, colour), format="PNG")
        for colour in ("black", "white", "gray", "red")
        for size in ((64, 64), (80, 60), (300, 200))
    ]
    duplicates = DuplicateIndex(flat)
    assert [duplicates.find(record) for record in flat] == [[index] for index in range(len(flat))]
    again = DuplicateIndex([*flat, flat[4]])
    assert again.find(flat[4]) == [4, len(flat)]
