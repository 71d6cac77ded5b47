"""Files as people really have them: each becomes the right pair, or is named with its reason before training starts."""

import io
import logging
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch.utils.data import DataLoader

from tests.conftest import REPO, write_set
from u2slim.data.cache import SquareCache
from u2slim.data.catalog import get_data_set
from u2slim.data.check import examine
from u2slim.data.dataset import PairDataset, StreamSampler, TrainStream, load_pair
from u2slim.data.pairs import Pair, find_pairs, list_pairs
from u2slim.data.saliency_datamodule import SaliencyDataModule
from u2slim.data.transforms import u2net
from u2slim.errors import UserError
from u2slim.images.read import image_size, read_image, read_mask

HEIGHT, WIDTH = 48, 64
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
PHOTO = np.dstack([ROWS * 5, COLUMNS * 3, ROWS + COLUMNS]).astype(np.uint8)
GRAY = (ROWS * 3 + COLUMNS).astype(np.uint8)
# Turned or mirrored in any way, it is another one.
SHAPE = ((ROWS < 16) & (COLUMNS < 40) | (COLUMNS < 8)).astype(np.uint8)
MASK = SHAPE * 255
BRIGHT_SHAPE = np.repeat((40 + SHAPE * 160)[..., None], 3, 2).astype(np.uint8)
SQUARE = np.ascontiguousarray(BRIGHT_SHAPE[:, :HEIGHT])

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # so it is

IMAGES, MASKS = Path("DUTS-TR", "DUTS-TR-Image"), Path("DUTS-TR", "DUTS-TR-Mask")
TURNED_BACK = {3: lambda upright: upright[::-1, ::-1], 6: lambda upright: np.rot90(upright)}  # as a camera stores it


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", turn: int | None = None, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
    if turn is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = turn
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(pixels: np.ndarray | Image.Image, **options) -> bytes:
    return encoded(pixels, "JPEG", quality=100, subsampling=0, **options)


def with_segments(file: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with further segments right behind its start."""
    packed = (b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments)
    return file[:2] + b"".join(packed) + file[2:]


def without_adobe_marker(file: bytes) -> bytes:
    start = file.index(b"\xff\xee")
    return file[:start] + file[start + 2 + int.from_bytes(file[start + 2 : start + 4]) :]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: list[bytes], interlaced: bool = False) -> bytes:
    """A PNG of a sort that Pillow reads but does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def interlaced_png(pixels: np.ndarray) -> bytes:
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    rows = [row.tobytes() for top, down, left, right in passes for row in pixels[top::down, left::right]]
    return png(pixels.shape[1], pixels.shape[0], 8, 0, rows, interlaced=True)


def palette_with_transparency() -> tuple[bytes, np.ndarray]:
    """Four colours in vertical bands, of which one is half and one wholly transparent; and what is seen over white."""
    colours = [(200, 10, 20), (10, 200, 30), (100, 50, 0), (0, 0, 0)]
    image = Image.fromarray((COLUMNS // 16).astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    seen = np.array([(200, 10, 20), (10, 200, 30), (178, 153, 128), (255, 255, 255)])
    return encoded(image, transparency=bytes([255, 255, 127, 0])), seen[COLUMNS // 16].astype(np.uint8)


def coloured_palette_mask() -> bytes:
    image = Image.fromarray(SHAPE, "P")
    image.putpalette([0, 0, 0, 128, 0, 0])  # as Pascal VOC's masks
    return encoded(image)


def cmyk() -> tuple[Image.Image, np.ndarray]:
    inks = np.dstack([ROWS * 5, COLUMNS * 3, np.full_like(ROWS, 90), np.full_like(ROWS, 60)]).astype(np.uint8)
    seen = np.rint((255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255)
    return Image.fromarray(inks, "CMYK"), seen.astype(np.uint8)


def repeated(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[..., None], 3, 2)


def usable() -> dict[str, tuple]:
    """By name: extensions and bytes of image and mask, the image's expected pixels and by how much they may differ.

    Every mask means `MASK`.
    """
    plain, mask = encoded(PHOTO), encoded(MASK)
    palette, palette_seen = palette_with_transparency()
    inks, inks_seen = cmyk()
    turned = jpeg(TURNED_BACK[6](BRIGHT_SHAPE), turn=6)
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    orientation = Image.Exif()
    orientation[0x0112] = 6
    raw_profile = PngInfo()
    raw_profile.add_text(
        "Raw profile type exif", f"\nexif\n{len(orientation.tobytes()):8}\n{orientation.tobytes().hex()}\n", zip=True
    )
    turn_chunk = png_chunk(b"eXIf", orientation.tobytes().removeprefix(b"Exif\0\0"))
    preview = b"Photoshop 3.0\0 a small JPEG: \xff\xd8 \xff\xda \xff\xd9"
    found = {
        "plain": (".png", plain, ".png", mask, PHOTO, 0),
        "upper case": (".JPG", jpeg(PHOTO), ".PNG", mask, PHOTO, 3),
        "dots.in.v1.2": (".jpeg", jpeg(PHOTO), ".png", mask, PHOTO, 3),
        "Größe 日本 👩‍👩‍👧": (".png", plain, ".png", mask, PHOTO, 0),
        "a b [1] {x,y} 100%s #1 & ; 'q' \\ ~$*?": (".png", plain, ".png", mask, PHOTO, 0),
        "cmyk": (".jpg", jpeg(inks), ".png", mask, inks_seen, 3),
        "cmyk unmarked": (".jpg", without_adobe_marker(jpeg(inks)), ".png", mask, inks_seen, 3),
        "cmyk tiff": (".tif", encoded(inks, "TIFF"), ".png", mask, inks_seen, 1),
        "gray jpeg": (".jpg", jpeg(GRAY), ".png", mask, repeated(GRAY), 2),
        "progressive": (".jpg", jpeg(PHOTO, progressive=True), ".png", mask, PHOTO, 3),
        "16-bit image": (".png", encoded(GRAY.astype(np.uint16) * 257), ".png", mask, repeated(GRAY), 0),
        "palette image": (".png", palette, ".png", mask, palette_seen, 1),
        "webp image": (".webp", encoded(PHOTO, "WEBP", lossless=True), ".png", mask, PHOTO, 0),
        "bmp image": (".bmp", encoded(PHOTO, "BMP"), ".png", mask, PHOTO, 0),
        "png called jpg": (".jpg", plain, ".png", mask, PHOTO, 0),
        "gamma and profile": (
            ".png",
            plain[:33] + png_chunk(b"gAMA", struct.pack(">I", 100000)) + plain[33:],
            ".png",
            encoded(MASK, icc_profile=b"no profile at all"),
            PHOTO,
            0,
        ),
        "turned, mask upright": (".jpg", turned, ".png", mask, BRIGHT_SHAPE, 3),
        "both turned": (".jpg", turned, ".png", encoded(TURNED_BACK[6](MASK), turn=6), BRIGHT_SHAPE, 3),
        "both upside down": (
            ".jpg",
            jpeg(TURNED_BACK[3](BRIGHT_SHAPE), turn=3),
            ".png",
            encoded(TURNED_BACK[3](MASK), turn=3),
            BRIGHT_SHAPE,
            3,
        ),
        "turned by XMP": (
            ".jpg",
            with_segments(jpeg(TURNED_BACK[6](BRIGHT_SHAPE)), (0xE1, xmp)),
            ".png",
            mask,
            BRIGHT_SHAPE,
            3,
        ),
        "turned, behind a preview": (
            ".jpg",
            with_segments(turned, (0xED, preview)),
            ".png",
            mask,
            BRIGHT_SHAPE,
            3,
        ),
        "tiff turned": (
            ".tif",
            encoded(TURNED_BACK[6](BRIGHT_SHAPE), "TIFF", tiffinfo={0x0112: 6}),
            ".png",
            mask,
            BRIGHT_SHAPE,
            0,
        ),
        "webp turned": (
            ".webp",
            encoded(TURNED_BACK[6](BRIGHT_SHAPE), "WEBP", lossless=True, turn=6),
            ".png",
            mask,
            BRIGHT_SHAPE,
            0,
        ),
        "16 bits turned": (
            ".png",
            encoded(TURNED_BACK[6](BRIGHT_SHAPE[..., 0]).astype(np.uint16) * 257, turn=6),
            ".png",
            mask,
            BRIGHT_SHAPE,
            0,
        ),
        "junk for Exif": (
            ".jpg",
            with_segments(jpeg(BRIGHT_SHAPE), (0xE1, b"Exif\0\0MM\0*\0\0\0\x08 nothing that it should be")),
            ".png",
            mask,
            BRIGHT_SHAPE,
            3,
        ),
        "stray bytes before its end": (".jpg", jpeg(PHOTO)[:-2] + bytes(10) + jpeg(PHOTO)[-2:], ".png", mask, PHOTO, 3),
        "more behind its end": (".jpg", jpeg(PHOTO) + jpeg(255 - PHOTO), ".png", mask, PHOTO, 3),
        "orientation 0": (".jpg", jpeg(BRIGHT_SHAPE, turn=0), ".png", mask, BRIGHT_SHAPE, 3),
        "orientation 9": (".jpg", jpeg(BRIGHT_SHAPE, turn=9), ".png", mask, BRIGHT_SHAPE, 3),
        "comment on Exif": (
            ".jpg",
            with_segments(jpeg(BRIGHT_SHAPE), (0xFE, b"no Exif here")),
            ".png",
            mask,
            BRIGHT_SHAPE,
            3,
        ),
    }
    masks = {
        "16-bit mask": (".png", encoded(SHAPE.astype(np.uint16) * 40000)),
        "16-bit mask of 0 and 1": (".png", encoded(SHAPE.astype(np.uint16))),
        "0 and 1": (".png", encoded(SHAPE)),
        "palette mask": (".png", coloured_palette_mask()),
        "1-bit mask": (".png", encoded(Image.fromarray(MASK).convert("1"))),
        "2-bit mask": (
            ".png",
            png(WIDTH, HEIGHT, 2, 0, [(r[::4] << 6 | r[1::4] << 4 | r[2::4] << 2 | r[3::4]).tobytes() for r in SHAPE]),
        ),
        "4-bit mask": (".png", png(WIDTH, HEIGHT, 4, 0, [(r[::2] << 4 | r[1::2]).tobytes() for r in SHAPE])),
        "RGB mask": (".png", encoded(repeated(MASK))),
        "opaque LA mask": (".png", encoded(Image.merge("LA", [Image.fromarray(MASK), Image.new("L", (64, 48), 255)]))),
        "mask with an unused transparent gray": (".png", encoded(MASK, transparency=77)),
        "noisy jpeg mask": (".jpg", encoded(MASK, "JPEG", quality=30)),
        "interlaced mask": (".png", interlaced_png(MASK)),
        "webp mask": (".webp", encoded(repeated(MASK), "WEBP", lossless=True)),
        "tiff mask": (".tiff", encoded(Image.fromarray(MASK).convert("1"), "TIFF", compression="group4")),
        "turned by ImageMagick": (".png", encoded(TURNED_BACK[6](MASK), pnginfo=raw_profile)),
        "turned at its end": (".png", encoded(TURNED_BACK[6](MASK))[:-12] + turn_chunk + png_chunk(b"IEND", b"")),
    }
    return found | {name: (".png", plain, *mask, PHOTO, 0) for name, mask in masks.items()}


def unusable() -> dict[str, tuple[str, bytes, str, bytes, str]]:
    """By name: extensions and bytes of image and mask, and the reason that must be given."""
    plain, mask, photo = encoded(PHOTO), encoded(MASK), jpeg(PHOTO)
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - PHOTO)]}
    transparent = np.dstack([repeated(MASK), MASK])
    middle = photo.index(b"\xff\xda") + 200
    signed = encoded(Image.fromarray(GRAY.astype(np.int32) - 100), "TIFF")
    white_is_0 = encoded(GRAY.astype(np.uint16), "TIFF", tiffinfo={262: 0})
    return {
        "cut jpeg": (".jpg", photo[: len(photo) // 2], ".png", mask, "cannot be read (image file is truncated"),
        "jpeg without its end": (".jpg", photo[:-2], ".png", mask, "cannot be read (image file is truncated"),
        "broken jpeg": (".jpg", photo[:middle] + b"\xff\xd3" + photo[middle:], ".png", mask, "Corrupt JPEG data"),
        "cut png": (".png", plain[: len(plain) // 2], ".png", mask, "cannot be read (a checksum is wrong or the end"),
        "broken png": (".png", flipped(plain, 100), ".png", mask, "cannot be read (a checksum is wrong"),
        "broken mask": (".png", plain, ".png", flipped(mask, -20), "cannot be read (a checksum is wrong"),
        "empty mask": (".png", plain, ".png", b"", "is empty (0 bytes)"),
        "empty image": (".jpg", b"", ".png", mask, "is empty (0 bytes)"),
        "text": (".jpg", b"<html>404 not found</html>", ".png", mask, "not an image of a known kind"),
        "program": (".jpg", encoded(PHOTO, "EPS"), ".png", mask, "a PostScript program"),
        "animated webp": (".webp", encoded(PHOTO, "WEBP", **frames), ".png", mask, "2 frames"),
        "animated png": (".png", encoded(PHOTO, **frames), ".png", mask, "2 frames"),
        "tiff of pages": (".tif", encoded(PHOTO, "TIFF", **frames), ".png", mask, "2 frames"),
        "animated mask": (".png", plain, ".png", encoded(MASK, **frames), "frames"),
        "transparent mask": (".png", plain, ".png", encoded(transparent), "picture with transparency, not a mask"),
        "float mask": (".png", plain, ".tif", encoded(SHAPE.astype(np.float32), "TIFF"), "floating-point pixels"),
        "dark mask of 48 bits": (
            ".png",
            plain,
            ".png",
            png(WIDTH, HEIGHT, 16, 2, [repeated(row[None])[0].astype(">u2").tobytes() for row in SHAPE]),
            "16 bits a channel, all too dark to be told from black",
        ),
        "signed image": (".tif", signed, ".png", mask, "signed pixels"),
        "signed mask": (".png", plain, ".tif", signed, "signed pixels"),
        "white is 0": (".png", plain, ".tif", white_is_0, "16 bits with white as 0"),
        "only the image turned": (
            ".jpg",
            jpeg(TURNED_BACK[6](BRIGHT_SHAPE), turn=6),
            ".png",
            encoded(TURNED_BACK[6](MASK)),
            "is 64x48, its mask 48x64: only the image is turned by its EXIF data",
        ),
        "only the image upside down": (
            ".jpg",
            jpeg(TURNED_BACK[3](BRIGHT_SHAPE), turn=3),
            ".png",
            mask,
            "different EXIF orientations (3 and 1)",
        ),
        "turned square": (
            ".jpg",
            jpeg(TURNED_BACK[6](SQUARE), turn=6),
            ".png",
            encoded(MASK[:, :HEIGHT]),
            "different EXIF orientations (6 and 1)",
        ),
        "one pixel": (".png", encoded(PHOTO[:1, :1]), ".png", encoded(MASK[:1, :1]), "is 1x1, too small to learn from"),
        "a line": (".png", encoded(PHOTO[:1]), ".png", encoded(MASK[:1]), "is 64x1, too small to learn from"),
        "other size": (".png", plain, ".png", encoded(MASK[1:]), "is 64x48, its mask 64x47"),
        "huge png": (".png", plain, ".png", png(60000, 60000, 8, 0, [b""]), "exceeds limit"),
        "huge jpeg": (".jpg", resized(photo, 60000), ".png", mask, "exceeds limit"),
    }


def flipped(file: bytes, place: int) -> bytes:
    changed = bytearray(file)
    changed[place] ^= 0x55
    return bytes(changed)


def resized(file: bytes, side: int) -> bytes:
    """A JPEG that says it has other sides than it has."""
    start = file.index(b"\xff\xc0") + 5
    return file[:start] + struct.pack(">HH", side, side) + file[start + 4 :]


def put(root: Path, name: str, image_kind: str, image: bytes, mask_kind: str, mask: bytes) -> None:
    for folder, file, data in ((IMAGES, name + image_kind, image), (MASKS, name + mask_kind, mask)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / file).write_bytes(data)


def put_odd_files(root: Path) -> dict[str, str]:
    """What is no file of bytes, or no pair; by name the reason that must be given."""
    images, mask = root / IMAGES, encoded(MASK)
    (images / "loop.jpg").symlink_to("loop back.jpg")
    (images / "loop back.jpg").symlink_to("loop.jpg")
    (images / "dangling.jpg").symlink_to("nowhere.jpg")
    (images / "folder.jpg").mkdir()
    os.mkfifo(images / "pipe.jpg")
    (images / "device.jpg").symlink_to("/dev/zero")
    (images / "two.jpg").write_bytes(jpeg(PHOTO))
    (images / "two.png").write_bytes(encoded(PHOTO))
    (images / "line\nbreak.jpg").write_bytes(jpeg(PHOTO))
    (images / os.fsdecode(b"latin \xe4.jpg")).write_bytes(jpeg(PHOTO))
    reasons = {
        "loop": "is a link that leads nowhere",
        "loop back": "is a link that leads nowhere",
        "dangling": "is a link that leads nowhere",
        "folder": "is a folder, not an image",
        "pipe": "is a pipe or a device",
        "device": "is a pipe or a device",
        "two": "share a name: nothing says which of them belong together",
        "line\nbreak": "has a line break, a control character or a broken character in its name",
        os.fsdecode(b"latin \xe4"): "has a line break, a control character or a broken character in its name",
    }
    for name in reasons:
        (root / MASKS / f"{name}.png").write_bytes(mask)
    (images / "no mask.jpg").write_bytes(jpeg(PHOTO))
    (root / MASKS / "no image.png").write_bytes(mask)
    # None of these is a pair's file, and none may be in the way.
    (root / "loop").symlink_to("loop")
    (root / "DUTS-TE").symlink_to("DUTS-TE")
    (images / "folder loop").symlink_to(".")
    (images / ".hidden.jpg").write_bytes(b"")
    (images / "Thumbs.db").write_bytes(b"")
    return reasons | {"no mask": "has no mask"}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A data root with one pair of every kind; and the reasons for the unusable ones, by name."""
    root = tmp_path_factory.mktemp("data of every kind [ü]")
    for name, (image_kind, image, mask_kind, mask, *_) in usable().items():
        put(root, name, image_kind, image, mask_kind, mask)
    reasons = {}
    for name, (*files, reason) in unusable().items():
        put(root, name, *files)
        reasons[name] = reason
    return root, reasons | put_odd_files(root)


def start(root: Path, **options) -> SaliencyDataModule:
    data = SaliencyDataModule(str(root), ["duts_tr", "duts_te"], size=32, num_workers=0, **options)
    data.setup()
    return data


def test_training_stops_with_every_bad_file_and_its_reason(mixed, caplog):
    root, reasons = mixed
    with pytest.raises(UserError) as stopped:
        start(root)
    first, *lines, remedy = str(stopped.value).splitlines()
    assert first == f"{len(reasons)} pairs cannot be used:"
    assert "data.on_bad=skip" in remedy
    assert len(lines) == len(reasons)
    for name, reason in reasons.items():
        shown = ascii(name)[1:-1] if not name.isprintable() else name
        assert [line for line in lines if f"/{shown}." in line and reason in line], (name, reason, lines)
    assert "DUTS-TR: 1 masks have no image, e.g. no image" in caplog.text


def test_skipping_leaves_exactly_the_good_pairs_and_logs_the_others(mixed, caplog):
    root, reasons = mixed
    data = start(root, on_bad="skip", val_count=5)
    assert {pair.name for pair in data.train_pairs + data.val_pairs} == set(usable())
    left_out = [record.getMessage() for record in caplog.records if record.getMessage().startswith("left out")]
    assert len(left_out) == len(reasons)
    for name, reason in reasons.items():
        assert any(reason in line for line in left_out), (name, reason)
    assert f"{len(reasons)} pairs left out (data.on_bad=skip)" in caplog.text


@pytest.mark.parametrize("name", usable())
def test_a_usable_pair_has_the_pixels_that_a_person_sees(mixed, name):
    pair = next(pair for pair in list_pairs(get_data_set("duts_tr"), mixed[0]).pairs if pair.name == name)
    *_, seen, tolerance = usable()[name]
    image, mask = load_pair(pair)
    assert image.dtype == mask.dtype == np.uint8
    assert image_size(pair.image) == image_size(pair.mask) == mask.shape
    np.testing.assert_array_equal(mask, MASK)
    assert image.shape == seen.shape
    assert np.abs(image.astype(int) - seen).max() <= tolerance
    if seen is BRIGHT_SHAPE:  # to the pixel, whatever the JPEG has made of the values
        np.testing.assert_array_equal(image[..., 0] > 120, mask > 0)
    sample = PairDataset([pair], 32)[0]
    assert sample["image"].shape == (32, 32, 3) and sample["mask"].unique().tolist() == [0, 255]


def test_scoring_refuses_what_the_headers_show(tmp_path):
    put(tmp_path, "good", ".png", encoded(PHOTO), ".png", encoded(MASK))
    for name in ("only the image turned", "only the image upside down", "turned square", "other size"):
        *files, reason = unusable()[name]
        put(tmp_path, name, *files)
        with pytest.raises(UserError, match=f"{name}.*{re.escape(reason)}"):
            find_pairs(get_data_set("duts_tr"), tmp_path)
        shutil.rmtree(tmp_path / IMAGES)
        shutil.rmtree(tmp_path / MASKS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_file_cut_anywhere_is_an_error_or_whole(tmp_path, kind):
    read = read_image if kind == "JPEG" else read_mask
    whole = encoded(Image.fromarray(MASK), kind)
    path = tmp_path / "cut"
    path.write_bytes(whole)
    expected = read(path)
    for end in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:end])
        try:
            np.testing.assert_array_equal(read(path), expected)
        except UserError as error:
            assert str(path) in str(error)


def test_damage_in_a_png_never_goes_unnoticed(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.png"
    for pixels, read in ((MASK, read_mask), (PHOTO, read_image), (GRAY.astype(np.uint16) * 257, read_image)):
        whole = encoded(pixels)
        for place in rng.integers(8, len(whole), 60):
            path.write_bytes(flipped(whole, int(place)))
            with pytest.raises(UserError, match="damaged.png"):
                read(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory is read from /proc")
def test_a_picture_of_108_megapixels_is_trained_on_in_reasonable_memory(tmp_path):
    width, height = 12000, 9000
    picture = Image.new("L", (width, height), 30)
    picture.paste(220, (0, 0, width // 2, height // 3))
    put(tmp_path, "huge", ".jpg", encoded(picture, "JPEG", quality=50), ".png", b"")
    Image.eval(picture, lambda value: 255 * (value > 100)).save(tmp_path / MASKS / "huge.png", compress_level=1)
    del picture
    script = r"""
import re, sys
from u2slim.data.catalog import get_data_set
from u2slim.data.check import examine
from u2slim.data.dataset import TrainStream
from u2slim.data.pairs import list_pairs
peak = lambda: int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]) / 1024
before, pairs = peak(), list_pairs(get_data_set("duts_tr"), sys.argv[1]).pairs
stream = TrainStream(pairs, 320, None, seed=0)
sample = stream[0]
image, mask = sample["image"], sample["mask"][0]
assert image.shape == (320, 320, 3)
assert ((image[..., 0] > 120) == (mask > 120)).float().mean() > 0.99
training = peak() - before
record = examine(pairs[0])
assert not record.kind, record
assert abs(record.foreground - 1 / 6) < 1e-6
print(int(training), int(peak() - before), int(before))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=REPO, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr  # no warning of a decompression bomb either
    training, checking, _ = map(int, done.stdout.split())
    assert training < 400 and checking < 1300, done.stdout


def ruin_by_deleting(path: Path) -> str:
    path.unlink()
    return "no such file"


def ruin_by_truncating(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-500])
    return "truncated"


def ruin_by_resizing(path: Path) -> str:
    """To twice the size, so that its shape is its mask's still."""
    with Image.open(path) as image:
        image.resize((2 * image.width, 2 * image.height)).save(path)
    return "another size than its mask"


def ruin_by_a_pixel(path: Path) -> str:
    with Image.open(path) as image:
        image.resize((image.width - 1, image.height)).save(path)
    return "another size than its mask"


RUINS = [ruin_by_deleting, ruin_by_truncating, ruin_by_resizing, ruin_by_a_pixel]


def drawn(stream: TrainStream, workers: int = 0) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Three passes over 16 pairs."""
    loader = DataLoader(stream, num_workers=workers, batch_sampler=StreamSampler(12, 4))
    return [sample for batch in loader for sample in zip(batch["name"], batch["image"], batch["mask"], strict=True)]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("rendered")
    write_set(root / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 16)
    return root


@pytest.fixture
def sixteen(rendered, tmp_path) -> list[Pair]:
    shutil.copytree(rendered, tmp_path, dirs_exist_ok=True)
    return find_pairs(get_data_set("duts_tr"), tmp_path)


@pytest.mark.parametrize("ruin", RUINS)
def test_a_file_ruined_while_training_ends_the_run_with_its_name(sixteen, ruin):
    stream = TrainStream(sixteen, 64, None, seed=0)
    ruined = next(pair for pair in sixteen if f"duts_tr/{pair.name}" == stream[5]["name"])
    reason = ruin(ruined.image)
    stream[4], stream[6]
    with pytest.raises(UserError, match=f"{ruined.name}.jpg.*{reason}"):
        stream[5]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ruin", RUINS)
def test_skipping_a_file_ruined_while_training_changes_no_other_sample(sixteen, ruin, workers, tmp_path):
    intact = drawn(TrainStream(sixteen, 64, u2net(64), seed=0))
    order = [name for name, *_ in intact]
    bad = order[0]
    assert order.index(bad, 16) > 19  # lest two processes meet it for the first time in the same moment
    reason = ruin(next(pair.image for pair in sixteen if bad.endswith(pair.name)))
    logged = logging.FileHandler(tmp_path / "log")  # what worker processes say, too
    logging.getLogger("u2slim.data.dataset").addHandler(logged)
    try:
        left = drawn(TrainStream(sixteen, 64, u2net(64), seed=0, skip_bad=True), workers)
    finally:
        logging.getLogger("u2slim.data.dataset").removeHandler(logged)
        logged.close()
    assert len(left) == len(intact) == 48
    for k, (was, now) in enumerate(zip(intact, left, strict=True)):
        if was[0] == bad:
            sweep = order[k // 16 * 16 :][:16]
            assert now[0] == sweep[(k + 1) % 16]
        else:
            assert was[0] == now[0] and torch.equal(was[1], now[1]) and torch.equal(was[2], now[2])
    said = (tmp_path / "log").read_text().splitlines()
    assert len(said) == 1 and reason in said[0], said
    assert re.search(rf"{bad[-4:]}\.jpg.* takes the next image of the order instead \(1 so far\)", said[0])


def test_skipping_ends_where_nothing_is_left(sixteen):
    stream = TrainStream(sixteen, 64, None, seed=0, skip_bad=True)
    for pair in sixteen:
        pair.mask.unlink()
    with pytest.raises(UserError, match="None of the 16 training images can be read any more"):
        stream[0]


def test_an_image_exchanged_while_training_is_not_remembered_as_the_old_one(sixteen, tmp_path):
    first = start(tmp_path, cache=str(tmp_path / "squares"), val_count=1)
    pair = first.train_pairs[0]
    right = PairDataset([pair], 32)[0]["image"]
    kept = pair.image.read_bytes()
    with Image.open(pair.image) as image:
        size = image.size
    Image.new("RGB", size, "red").save(pair.image)
    cache = SquareCache(tmp_path / "squares", 32, 0.1)
    PairDataset([pair], 32, cache=cache)[0]
    pair.image.write_bytes(kept)
    assert torch.equal(PairDataset([pair], 32, cache=cache)[0]["image"], right)
    assert cache.get(pair.content) is not None


def test_a_file_that_has_changed_since_the_last_start_is_looked_at_again(sixteen, tmp_path):
    image, mask = sixteen[3].image, sixteen[4].mask
    start(tmp_path)
    kept, times = image.read_bytes(), image.stat()
    image.write_bytes(kept[:-300])
    with pytest.raises(UserError, match=r"1 pairs cannot be used:\s+\S*0003.jpg cannot be read"):
        start(tmp_path)
    image.write_bytes(kept)
    start(tmp_path)
    broken = flipped(mask.read_bytes(), -30)  # as long as before
    mask.write_bytes(broken)
    os.utime(mask, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    with pytest.raises(UserError, match=r"1 pairs cannot be used:\s+\S*0004.png cannot be read"):
        start(tmp_path)


def test_a_mended_file_of_the_same_size_and_time_is_looked_at_again(sixteen, tmp_path):
    mask = sixteen[4].mask
    kept, times = mask.read_bytes(), mask.stat()
    first = start(tmp_path)
    # As `cp -p` and `rsync -t` put a file in place of another.
    mask.write_bytes(flipped(kept, -30))
    os.utime(mask, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match=r"1 pairs cannot be used:\s+\S*0004.png cannot be read"):
        start(tmp_path)
    mask.write_bytes(kept)
    os.utime(mask, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert start(tmp_path).state_dict() == first.state_dict()


def test_a_disk_that_failed_once_is_asked_again(sixteen, tmp_path, monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(UserError, match=r"16 pairs cannot be used:\s+\S*0000.jpg cannot be read .*Input/output"):
            start(tmp_path)
    start(tmp_path)


def test_a_file_that_may_not_be_read_is_named(sixteen, tmp_path, monkeypatch):
    def refused(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(UserError, match=r"0000.jpg cannot be read \(Permission denied\)"):
        start(tmp_path)


@pytest.mark.parametrize("damage", ["a file", "no database", "a torn page"])
def test_a_check_that_cannot_be_remembered_is_one_sentence(sixteen, tmp_path, monkeypatch, damage):
    folder = tmp_path / "remembered"
    monkeypatch.setenv("U2SLIM_CACHE", str(folder))
    if damage == "a file":
        folder.write_text("")
    else:
        start(tmp_path)
        kept = folder / "checked.sqlite"
        (folder / "checked.sqlite-wal").unlink(missing_ok=True)
        torn = kept.read_bytes() if damage == "a torn page" else b"nothing that SQLite knows" * 200
        kept.write_bytes(torn[:4096] + b"\xab" * (len(torn) - 4096))
    sentence = (
        r"The findings about the data cannot be saved in \S*checked.sqlite \(.+\); delete that file if it is damaged"
    )
    with pytest.raises(UserError, match=sentence):
        start(tmp_path)
    if damage != "a file":
        kept.unlink()
        start(tmp_path)


@pytest.mark.parametrize("root", ["a file", "empty folders", "a loop", "nothing"])
def test_a_root_without_data_is_named(tmp_path, root):
    place = tmp_path / "root"
    if root == "a file":
        place.write_text("")
    elif root == "empty folders":
        (place / IMAGES).mkdir(parents=True)
        (place / MASKS).mkdir()
    elif root == "a loop":
        place.symlink_to(place)
    with pytest.raises(UserError, match=r"No data under data.root=\S*root\. Expected"):
        start(place)


def test_shards_are_found_in_a_folder_whose_name_looks_like_a_pattern(tmp_path):
    root = tmp_path / "data [1]"
    root.mkdir()
    with tarfile.open(root / "duts-tr-0.tar", "w") as shard:
        for name, data in (("a b.image.png", encoded(PHOTO)), ("a b.mask.png", encoded(MASK))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    (pair,) = find_pairs(get_data_set("duts_tr"), root)
    np.testing.assert_array_equal(load_pair(pair)[0], PHOTO)


def test_skipping_everything_names_everything(sixteen, tmp_path):
    for pair in sixteen:
        pair.mask.write_bytes(b"")
    with pytest.raises(UserError) as stopped:
        start(tmp_path, on_bad="skip")
    assert str(stopped.value).count("is empty (0 bytes)") == 16
    assert "Nothing is left to train on" in str(stopped.value)


def test_a_faint_mask_of_16_bits_is_not_taken_for_an_empty_one(tmp_path):
    name = "16-bit mask of 0 and 1"
    put(tmp_path, name, *usable()[name][:4])
    record = examine(find_pairs(get_data_set("duts_tr"), tmp_path)[0])
    assert record.top == 1 and record.levels == 2 and record.foreground == pytest.approx(SHAPE.mean())


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_jpeg_that_breaks_in_the_middle_is_read_by_nobody(tmp_path, read):
    data = jpeg(PHOTO)
    middle = data.index(b"\xff\xda") + 200
    path = tmp_path / "broken.jpg"
    path.write_bytes(data[:middle] + b"\xff\xd3" + data[middle:])
    with pytest.raises(UserError, match="broken.jpg cannot be read .Corrupt JPEG data"):
        read(path)
