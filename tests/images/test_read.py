"""Images of every kind become what a person sees in them, or an error that names the file."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.conftest import gray
from u2slim.errors import UserError
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
