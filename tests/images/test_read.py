"""Images of every kind become what a person sees in them, or an error that names the file."""

import itertools
import struct
import sys
import tracemalloc

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.conftest import gray
from u2slim.errors import UserError
from u2slim.images.preprocess import resized
from u2slim.images.read import image_size, read_image, read_mask, read_photo
from u2slim.images.write import write_image


def save(path, image, **options):
    image.save(path, **options)
    return path


def test_grayscale_is_repeated(tmp_path):
    pixels = gray(6, 5)
    read = read_image(save(tmp_path / "g.png", Image.fromarray(pixels)))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, np.repeat(pixels[..., None], 3, 2))


def test_sixteen_bits_keep_their_brightness(tmp_path):
    pixels = gray(6, 5).astype(np.uint16) * 257
    read = read_image(save(tmp_path / "deep.png", Image.fromarray(pixels)))
    np.testing.assert_array_equal(read[..., 0], gray(6, 5))


def test_transparency_lies_over_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    pixels[1, 1] = (10, 20, 30, 0)
    image, rgba = read_photo(save(tmp_path / "a.png", Image.fromarray(pixels)))
    assert image[0, 0].tolist() == [10, 20, 30]
    assert image[1, 1].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(rgba, pixels)


@pytest.mark.parametrize(
    ("colours", "ground"),
    [((255, 255), 0), ((0, 0), 255), ((250, 5), 128), ((130, 130), 255), ((255, 90, 90, 90, 90, 90), 255)],
)
def test_transparency_lies_over_what_the_opaque_stands_out_from(tmp_path, colours, ground):
    pixels = np.zeros((40, 60, 4), np.uint8)
    for column, colour in enumerate(colours):
        pixels[10:30, 5 + column] = (colour, colour, colour, 255)
    image, _ = read_photo(save(tmp_path / "logo.png", Image.fromarray(pixels)))
    assert image[0, 0].tolist() == [ground] * 3
    for column, colour in enumerate(colours):
        assert image[20, 5 + column].tolist() == [colour] * 3


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2, of a device whose colours are in such a space."""
    head = bytearray(128)
    head[8:12], head[12:16], head[16:20], head[20:24], head[36:40] = b"\2\x20\0\0", b"prtr", space, b"Lab ", b"acsp"
    head[68:80] = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4s2I", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    whole = head + struct.pack(">I", len(tags)) + table + body
    whole[:4] = struct.pack(">I", len(whole))
    return bytes(whole)


def inks() -> bytes:
    """Inks of which only the black one shows, as nothing else than a grey."""
    grid = b"".join(bytes([0 if black else 255, 128, 128]) for *_, black in itertools.product((0, 1), repeat=4))
    identity = struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 0x10000)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + bytes(range(256)) * 4 + grid + bytes(range(256)) * 3
    return profile(b"CMYK", {b"A2B0": table})


def test_inks_become_colours_by_their_own_profile(tmp_path):
    """No file in RGB can carry the profile, so it must be used up."""
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 102))
    plain = read_image(save(tmp_path / "plain.jpg", image))[4, 4].astype(int)
    own = read_image(save(tmp_path / "own.jpg", image, icc_profile=inks()))[4, 4].astype(int)
    assert plain[0] < 30 < 120 < plain[2]  # cyan
    assert np.ptp(own) < 4 and 120 < own[0] < 170  # 60 % of white's lightness
    damaged = read_image(save(tmp_path / "damaged.jpg", image, icc_profile=inks()[:150]))[4, 4]
    np.testing.assert_array_equal(damaged, plain)


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, :48] = (200, 40, 90)
    path = tmp_path / "photo.heic"
    heif.from_pillow(Image.fromarray(pixels)).save(path)
    assert image_size(path) == (64, 96)
    assert abs(read_image(path)[32, 20].astype(int) - (200, 40, 90)).max() < 12
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("ID", "OPEN", "MIME", "EXTENSION"):  # as in a process that has not met any yet
        known = getattr(Image, name)
        monkeypatch.setattr(Image, name, [k for k in known if k != "HEIF"] if name == "ID" else {**known})
    Image.OPEN.pop("HEIF", None)
    with pytest.raises(UserError, match="pip install 'u2slim.heif.'"):
        read_image(path)


def test_a_photo_of_200_megapixels_is_resized_without_a_copy_in_float():
    photo = np.broadcast_to(np.arange(3, dtype=np.uint8), (12_240, 16_320, 3))
    tracemalloc.start()
    small = resized(photo, (320, 320))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(small, np.broadcast_to(np.arange(3, dtype=np.float32), (320, 320, 3)))
    assert peak < photo.size // 2


@pytest.mark.parametrize("shape", [(300, 400), (640, 640), (33, 900), (1, 1), (1, 50), (900, 700), (320, 321)])
@pytest.mark.parametrize("size", [(320, 320), (96, 160)])
def test_resizing_is_opencvs_of_the_photo_in_float(shape, size):
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    whole = cv2.resize(photo.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resized(photo, size), whole, atol=1e-2)


def test_cmyk_and_palette_are_read_in_colour(tmp_path):
    red = Image.new("RGB", (8, 8), (250, 0, 0))
    for path in (save(tmp_path / "c.jpg", red.convert("CMYK")), save(tmp_path / "p.png", red.convert("P"))):
        r, g, b = read_image(path)[4, 4].astype(int)
        assert r > 200 and g < 60 and b < 60, path


def test_exif_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    stored = np.zeros((20, 40, 3), np.uint8)
    stored[:, :20] = 255  # the left half becomes the upper half
    path = save(tmp_path / "turned.jpg", Image.fromarray(stored), exif=exif, quality=95)
    read = read_image(path)
    assert read.shape == (40, 20, 3) and image_size(path) == (40, 20)
    assert read[:18].min() > 200 and read[22:].max() < 50


def test_masks_are_divided_by_their_maximum(tmp_path):
    binary = (gray(6, 5) > 100).astype(np.uint8)
    expected = binary * 255
    for name, image in {
        "0-255": Image.fromarray(expected),
        "0-1": Image.fromarray(binary),
        "rgb": Image.fromarray(np.repeat(expected[..., None], 3, 2)),
        "palette": Image.fromarray(expected).convert("P"),
        "one-bit": Image.fromarray(expected).convert("1"),
    }.items():
        np.testing.assert_array_equal(read_mask(save(tmp_path / f"{name}.png", image)), expected, name)
    for top in (1, 255, 40000):
        deep = Image.fromarray(binary.astype(np.uint16) * top)
        np.testing.assert_array_equal(read_mask(save(tmp_path / f"deep{top}.png", deep)), expected, f"16 bits, {top}")
    empty = save(tmp_path / "empty.png", Image.fromarray(np.zeros((4, 4), np.uint8)))
    assert read_mask(empty).max() == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello, this is no picture", "not an image of a known kind"),
        ("cut", "truncated"),
    ],
)
def test_unreadable_files_are_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "bad photo ü.jpg"
    if content == "cut":
        save(path, Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)))
        content = path.read_bytes()[:-1500]
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"bad photo ü.jpg.*{reason}"):
        read_image(path)


def test_floating_point_image_is_named(tmp_path):
    path = save(tmp_path / "hdr.tif", Image.fromarray(np.zeros((4, 4), np.float32)))
    with pytest.raises(UserError, match=r"hdr.tif cannot be read \(floating-point pixels; save it with 8 or 16 bits"):
        read_image(path)


def test_missing_file_and_folder_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(UserError, match="is a folder"):
        read_image(tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(cv2.error):
        write_image(tmp_path / "out" / "x.png", np.zeros((2, 2, 7), np.uint8))
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written.*choose another folder"):
        write_image(tmp_path / "file" / "x.png", np.zeros((2, 2), np.uint8))
