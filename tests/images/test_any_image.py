"""Whatever a file holds: its own pixels, or one sentence; and what is written is read again."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from u2slim.errors import UserError
from u2slim.images.metadata import Metadata, read_metadata
from u2slim.images.read import (
    Loaded,
    image_size,
    photo_pixels,
    read_gray,
    read_header,
    read_ids,
    read_image,
    read_mask,
    read_photo,
)
from u2slim.images.write import FORMATS, encode

quick = settings(derandomize=True, deadline=None, max_examples=60)
sides = st.one_of(st.just(1), st.integers(1, 40), st.just(300))
LOSSLESS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("1", "L", "P"),
    "WEBP": ("L", "LA", "RGB", "RGBA"),
}
LOSSY = {"JPEG": ("L", "RGB", "CMYK"), "MPO": ("L", "RGB"), "AVIF": ("L", "RGB", "RGBA")}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>'
)


def picture(height: int, width: int, mode: str, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), np.uint16))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 4), np.uint8))
    return (
        image.convert("P").convert("PA")
        if mode == "PA"
        else image.convert("RGB" if mode == "P" else mode).convert(mode)
    )


def file_of(image: Image.Image, kind: str, **options) -> Loaded:
    file = BytesIO()
    image.save(file, kind, **options)
    return Loaded(f"x.{kind.lower()}", file.getvalue())


def upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """By the definition of the EXIF tag."""
    pixels = pixels.swapaxes(0, 1) if turn >= 5 else pixels
    rows, columns = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}[
        turn
    ]
    return pixels[::rows, ::columns]


@quick
@given(st.sampled_from([(kind, mode) for kind, modes in LOSSLESS.items() for mode in modes]), sides, sides)
def test_any_mode_and_size_is_read_as_it_was(kind, height, width):
    kind, mode = kind
    image = picture(height, width, mode)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    file = file_of(image, kind, **options)
    pixels, own = read_photo(file)
    if mode == "I;16":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if mode in ("LA", "PA", "RGBA"):
        np.testing.assert_array_equal(own, np.asarray(image.convert("RGBA")))
        assert pixels.shape == (height, width, 3)
    else:
        np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
        assert own is None
    assert image_size(file) == (height, width)


@quick
@given(st.sampled_from([*LOSSY, "PNG", "TIFF", "WEBP"]), st.integers(1, 8), st.booleans(), sides, sides)
def test_any_turn_is_undone(kind, turn, by_xmp, height, width):
    image = picture(height, width, "RGB")
    exif = Image.Exif()
    exif[0x0112] = turn
    xmp = (XMP % turn).encode()
    if not by_xmp:
        options = {"exif": exif}
    elif kind == "TIFF":
        options = {"tiffinfo": {700: xmp}}
    elif kind == "PNG":
        options = {"exif": exif}  # Pillow writes no XMP into it
    else:
        options = {"xmp": xmp}
    file = file_of(image, kind, **options)
    turned = read_image(file)
    stored = read_image(file_of(image, kind))
    np.testing.assert_array_equal(turned, upright(stored, turn))
    assert image_size(file) == turned.shape[:2]


def damaged_files() -> st.SearchStrategy[bytes]:
    kinds = [(kind, mode) for kinds in (LOSSLESS, LOSSY) for kind, modes in kinds.items() for mode in modes]
    files = st.sampled_from(kinds).map(lambda one: file_of(picture(24, 31, one[1]), one[0]).data)

    def cut(data: bytes) -> st.SearchStrategy[bytes]:
        return st.integers(0, len(data) - 1).map(lambda end: data[:end])

    def flip(data: bytes) -> st.SearchStrategy[bytes]:
        places = st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), min_size=1, max_size=4)

        def with_bytes(changes: list[tuple[int, int]]) -> bytes:
            changed = bytearray(data)
            for place, byte in changes:
                changed[place] = byte
            return bytes(changed)

        return places.map(with_bytes)

    return files.flatmap(lambda data: st.one_of(cut(data), flip(data)))


@pytest.mark.filterwarnings("ignore")
@settings(quick, max_examples=150)
@given(damaged_files())
def test_a_damaged_file_is_read_or_named_in_a_sentence(data):
    file = Loaded("x.jpg", data)
    for read in (read_mask, read_gray, read_ids, read_header, read_photo):
        try:
            read(file)
        except UserError as error:
            assert "x.jpg" in str(error)
        else:
            if read is read_photo:  # of which metadata are asked then
                read_metadata(data, ("icc", "dpi"))


numbers = st.one_of(st.floats(0, 1e9), st.sampled_from([float("inf"), float("nan"), 1e-9, 0.0]))


@quick
@given(
    st.sampled_from(list(FORMATS.values())),
    st.sampled_from([(), (3,), (4,)]),
    *(sides, sides, st.booleans(), st.booleans()),
    st.one_of(st.none(), st.tuples(numbers, numbers)),
)
def test_any_pixels_with_any_metadata_are_written_or_refused(kind, channels, height, width, exif, icc, dpi):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, *channels), np.uint8)
    tags = Image.Exif()
    tags[0x010F] = "a camera"
    tags.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"  # as in every camera's file, in a directory of its own
    tags.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    kept = Metadata(tags.tobytes() if exif else None, SRGB if icc else None, dpi)
    try:
        data = encode(pixels, kind, kept)
    except UserError as error:
        assert dpi and not all(1e-5 < number < 65536 for number in dpi), error  # which no reader gives
        return
    made = read_image(Loaded("x", data))
    assert made.shape == (height, width, 3)
    if kind.name in ("png", "tiff"):
        with Image.open(BytesIO(data)) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels)
    found = read_metadata(data, ("exif", "icc"))
    assert found.icc == kept.icc
    if exif:
        read = Image.Exif()
        read.load(found.exif)
        assert read[0x010F] == "a camera" and read.get_ifd(0x8825)[2] == (1.0, 2.0, 3.0)
        assert read.get_ifd(0x8769)[0x9003] == "2026:01:01 00:00:00"


def tiff(bits: int, data: bytes, numbers: int = 1, resolution: tuple[int, int] | None = None) -> bytes:
    """A gray TIFF of 4x1 pixels."""
    tags = {256: 4, 257: 1, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1, 279: len(data), 339: numbers}
    tags |= {282: -1, 283: -1, 296: 2} if resolution else {}
    start = 8 + 2 + 12 * len(tags) + 4
    tags[273] = start + 8
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) if value >= 0 else struct.pack("<HHII", tag, 5, 1, start)
        for tag, value in sorted(tags.items())
    )
    return (
        b"II*\0"
        + struct.pack("<IH", 8, len(tags))
        + entries
        + bytes(4)
        + struct.pack("<2I", *resolution or (0, 0))
        + data
    )


def test_numbers_that_are_read_as_others_are_refused():
    assert read_image(Loaded("x", tiff(16, struct.pack("<4H", 0, 256, 25_600, 65_535))))[0, :, 0].tolist() == [
        0,
        1,
        100,
        255,
    ]
    with pytest.raises(UserError, match="12 bits, which are read nearly black"):
        read_image(Loaded("x", tiff(12, b"\xff\xf0\x00\xff\xf8\x00")))
    with pytest.raises(UserError, match="signed pixels"):
        read_image(Loaded("x", tiff(8, struct.pack("<4b", 0, 100, -100, 127), numbers=2)))


@pytest.mark.parametrize(
    ("resolution", "dpi"), [((300, 1), (300, 300)), ((0, 0), None), ((1, 0), None), ((1, 1), None)]
)
def test_pixels_per_inch_may_be_no_number(resolution, dpi):
    assert read_metadata(tiff(8, bytes(4), resolution=resolution), ["dpi"]).dpi == dpi


@pytest.mark.parametrize(
    ("bits", "colour", "row", "key", "own"),
    [
        (2, 0, b"\x1b", (1,), [(0, 255), (85, 0), (170, 255), (255, 255)]),
        (4, 0, b"\x0f\xf0", (15,), [(0, 255), (255, 0), (255, 0), (0, 255)]),
        (8, 0, b"\x00\x64\xc8\xff", (100,), [(0, 255), (100, 0), (200, 255), (255, 255)]),
        (16, 0, struct.pack(">4H", 0, 1000, 1001, 65535), (1000,), [(0, 255), (3, 0), (3, 255), (255, 255)]),
        (16, 2, struct.pack(">6H", *[1000] * 3, *[60000] * 3), (1000,) * 3, [(3, 0), (234, 255)]),
    ],
)
def test_the_one_colour_that_a_png_calls_transparent(bits, colour, row, key, own):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", len(own), 1, bits, colour, 0, 0, 0)
    transparent = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + transparent + pixels + chunk(b"IEND", b"")
    assert read_photo(Loaded("x.png", data))[1][0, :, [0, 3]].T.tolist() == list(map(list, own))


def test_pixels_multiplied_by_their_transparency_keep_it():
    for mode, straight in {"RGBa": "RGBA", "La": "LA"}.items():
        image = picture(5, 7, straight)
        _, own = photo_pixels(image.convert(mode))
        np.testing.assert_array_equal(own[..., 3], np.asarray(image)[..., -1])


def test_the_a_of_lab_is_no_alpha():
    gray = Image.merge("LAB", [Image.new("L", (8, 6), level) for level in (128, 128, 128)])
    pixels, own = read_photo(file_of(gray, "TIFF"))
    assert own is None and np.ptp(pixels) < 8 and 100 < pixels.mean() < 140
