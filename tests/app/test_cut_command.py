"""`u2slim cut` as people type it: where results go, what they look like, and every way in gives the same mask."""

import io
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

import u2slim
from tests.conftest import REPO, THREADS
from tests.onnx_files import write_plain_net
from u2slim.app.main import main, main_parser
from u2slim.data.sample import render
from u2slim.images.masks import hard, largest_part, subject_box, to_8bit
from u2slim.runtime.onnx_reader import read_graph
from u2slim.zoo import SHIPPED, open_net
from u2slim.zoo.fetch import NETS
from u2slim.zoo.shipped import published_graph

NET = ("--net", "lite-dwsep")


@pytest.fixture
def photo(tmp_path: Path, monkeypatch) -> Path:
    """A photo in the working folder, which the commands are given as `photo.jpg`."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(render(3, 1)[0]).save("photo.jpg", quality=95)
    return tmp_path / "photo.jpg"


def cut(*words: object, status: int = 0) -> None:
    runtime = () if "--runtime" in words else ("--runtime", "opencv")  # by default the fastest that is installed
    assert main(["cut", *map(str, words), *NET, *runtime]) == status


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def piped(*words: str, given: bytes = b"") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "u2slim.app.main", "cut", *words, *NET, "--runtime", "opencv"]
    env = os.environ | THREADS | {"PYTHONPATH": str(REPO / "src")}
    return subprocess.run(command, input=given, capture_output=True, env=env, check=False)


def test_every_way_in_gives_the_same_bits(photo):
    """There is one function: as a file, its bytes, a picture of Pillow's, an array in either order, or a pipe."""
    image = pixels(photo)
    expected = to_8bit(open_net("lite-dwsep").runner()(image))
    assert np.ptp(expected) > 200
    net = u2slim.Segmenter("lite-dwsep")
    with Image.open(photo) as opened:
        ways = [photo, str(photo), photo.read_bytes(), opened, image]
        for way in ways:
            np.testing.assert_array_equal(u2slim.cut_out(way, net).mask, expected)
            np.testing.assert_array_equal(to_8bit(net(way)), expected)
        for mask in net(ways):
            np.testing.assert_array_equal(to_8bit(mask), expected)
    bgr = u2slim.cut_out(image[..., ::-1], "lite-dwsep", bgr=True)
    np.testing.assert_array_equal(bgr.rgba, np.dstack([image, expected]))
    cut("photo.jpg", "--mask", "also")
    np.testing.assert_array_equal(pixels("photo-mask.png"), expected)
    np.testing.assert_array_equal(pixels("photo-cut.png"), np.dstack([image, expected]))
    done = piped("-", given=photo.read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == Path("photo-cut.png").read_bytes()
    assert piped("-", "--mask", "only", given=photo.read_bytes()).stdout == Path("photo-mask.png").read_bytes()
    assert piped("photo.jpg", "-o", "-").stdout == Path("photo-cut.png").read_bytes()


def test_arrays_of_other_kinds(photo):
    image = pixels(photo)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    net = u2slim.Segmenter("lite-dwsep")
    np.testing.assert_array_equal(net(gray), net(np.dstack([gray] * 3)))
    np.testing.assert_array_equal(net(gray[..., None]), net(gray))
    clear = np.dstack([image, np.zeros(image.shape[:2], np.uint8)])
    assert u2slim.cut_out(clear, net).alpha.max() == 0
    for wrong in (image.astype(np.float32), image[..., :2], image[:0], np.zeros(3, np.uint8)):
        with pytest.raises(u2slim.UserError, match=r"An array must be \(H, W, 3\) uint8"):
            net(wrong)
    with pytest.raises(u2slim.UserError, match="the photo is empty"):
        net(b"")
    for options, sentence in (
        ({"refine": "guide"}, "refine='guide' is not known; choose 'guided'"),
        ({"threshold": 128}, "threshold=128: give a number from 0 to 1"),
        ({"border": -0.1}, "border=-0.1: give"),
        ({"runtime": "opencv"}, "the Segmenter has a runtime already"),
    ):
        with pytest.raises(u2slim.UserError, match=sentence):
            u2slim.cut_out(photo, net, **options)
    with pytest.raises(u2slim.UserError, match="NoneType is not a photo"):
        u2slim.cut_out(None, net)
    result = u2slim.cut_out(photo, net)
    with pytest.raises(u2slim.UserError, match="is no background"):
        result.on((255, 0, 0))
    for margin in (-1, 20.0):
        with pytest.raises(u2slim.UserError, match="margin=.*: give pixels"):
            result.cropped(margin)
    with pytest.raises(u2slim.UserError, match="the ending names the format"):
        u2slim.cut_out(photo, net).save("cut.gif")


def test_the_package_knows_its_files_as_reading_tells_them():
    for net in SHIPPED.values():
        if net.ecssd is None:
            assert net.graph() is None, "the file is read for its classes"
            continue
        known, read = net.graph(), read_graph(net.onnx)
        assert known.proved and not read.proved
        assert known.__dict__ | {"proved": False} == read.__dict__
    known, read = published_graph(NETS / "u2netp.onnx"), open_net("u2netp")._graph()
    assert known.proved and known.__dict__ | {"proved": False} == read.__dict__
    assert published_graph(Path("u2netp.onnx")) is None


def test_one_photo_needs_few_modules(photo):
    """Each of these takes longer to import than a photo to decode."""
    script = (
        "import sys; from u2slim.app.main import main; main(['cut', 'photo.jpg', '--runtime', 'opencv']); "
        "print(*{'onnx', 'rich', 'loky', 'torch', 'requests', 'watchfiles', 'shtab', 'pymatting', 'fsspec'} "
        "& {*sys.modules})"
    )
    env = os.environ | {"PYTHONPATH": str(REPO / "src")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=env, check=True, text=True)
    assert done.stdout.splitlines() == ["1 of 1 photo done with opencv: photo-cut.png", ""]


@pytest.mark.parametrize(
    ("ending", "mode", "kind"),
    [
        ("png", "RGBA", "PNG"),
        ("webp", "RGBA", "WEBP"),
        ("jpg", "RGB", "JPEG"),
        ("tif", "RGBA", "TIFF"),
        ("avif", "RGBA", "AVIF"),
    ],
)
def test_formats(photo, ending, mode, kind):
    if kind == "AVIF" and ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow is built without AVIF")
    cut("photo.jpg", "-o", f"a.{ending}")
    cut("photo.jpg", "-o", "album", "--format", kind.lower())
    for path in (f"a.{ending}", f"album/cutouts/photo.{ending}"):
        with Image.open(path) as image:
            assert (image.mode, image.format, image.size) == (mode, kind, Image.open(photo).size)
    assert Path("album/masks/photo.png").is_file(), "masks beside cut-outs lose nothing"
    expected = u2slim.cut_out(photo, "lite-dwsep")
    if kind == "JPEG":
        assert np.abs(pixels("a.jpg").astype(int) - expected.on("white")).mean() < 2
        return
    alpha = pixels(f"a.{ending}")[..., 3].astype(int)
    assert np.abs(alpha - expected.alpha).mean() < 2
    cut("photo.jpg", "-o", f"m.{ending}", "--mask", "only")
    mask = pixels(f"m.{ending}")
    assert np.abs((mask if mask.ndim == 2 else mask[..., 0]).astype(int) - expected.mask).mean() < 2


def test_webp_without_loss_has_the_pixels_that_are_seen_in_fewer_bytes(photo):
    cut("photo.jpg", "-o", "a.png")
    cut("photo.jpg", "-o", "a.webp", "--format", "webp-lossless")
    png, webp = pixels("a.png"), pixels("a.webp")
    assert np.array_equal(webp[..., 3], png[..., 3]) and 0 < (png[..., 3] > 0).mean() < 1
    seen = png[..., 3] > 0
    assert np.array_equal(webp[seen], png[seen])
    assert Path("a.webp").stat().st_size < 0.7 * Path("a.png").stat().st_size
    cut("photo.jpg", "-o", "album", "--format", "webp-lossless")
    assert Path("album/cutouts/photo.webp").read_bytes() == Path("a.webp").read_bytes()


def test_backgrounds(photo):
    result = u2slim.cut_out(photo, "lite-dwsep")
    image, weight = pixels(photo).astype(float), result.alpha[..., None] / 255
    colour = np.full_like(image, (0, 128, 255))
    cut("photo.jpg", "-o", "colour.png", "--background", "#0080ff")
    np.testing.assert_allclose(pixels("colour.png"), image * weight + colour * (1 - weight), atol=0.51)
    height, width = image.shape[:2]
    ground = np.zeros((height // 2, 3 * width, 3), np.uint8)  # twice as large, its middle third would fit
    ground[:, width : 2 * width] = 200
    ground[:, : width // 2] = 255
    Image.fromarray(ground).save("ground.png")
    cut("photo.jpg", "-o", "picture.png", "--background", "ground.png")
    shown = pixels("picture.png")
    assert shown.shape == image.shape
    np.testing.assert_allclose(shown, image * weight + 200 * (1 - weight), atol=1)
    cut("photo.jpg", "-o", "blur.png", "--background", "blur")
    blurred = pixels("blur.png")
    inside, outside = result.alpha == 255, result.alpha == 0
    np.testing.assert_array_equal(blurred[inside], pixels(photo)[inside])

    def rough(x):
        return np.abs(cv2.Laplacian(x.astype(np.float32), cv2.CV_32F))[outside].mean()

    assert rough(blurred) < rough(pixels(photo)) / 2
    np.testing.assert_array_equal(blurred, result.on("blur"))
    own = u2slim.cut_out(photo, "lite-dwsep", foreground=lambda image, mask: np.full_like(image, 9))
    np.testing.assert_array_equal(own.on("blur")[outside], blurred[outside])
    clear = np.dstack([image.astype(np.uint8), np.where(np.arange(width) < 9, 0, 255) * np.ones((height, 1))])
    clear[:, :9, :3] = 0  # black where nobody sees it
    shown = u2slim.cut_out(clear.astype(np.uint8), "lite-dwsep").on("blur")
    assert shown[:, :5].mean() > 150, "white, as where there is no background"
    assert main(["cut", "photo.jpg", "-o", "x.png", "--background", "nowhere.png"]) == 1


def test_the_subjects_colours_do_not_run_into_a_blurred_background():
    photo = np.full((200, 300, 3), (0, 0, 255), np.uint8)
    alpha = np.zeros((200, 300), np.uint8)
    photo[50:150, 100:200], alpha[50:150, 100:200] = (255, 0, 0), 255
    from u2slim.cutout.backgrounds import Blur

    assert Blur()(photo, alpha)[alpha == 0][:, 0].max() < 16


def test_crop_leaves_the_subject_and_its_margin(photo):
    result = u2slim.cut_out(photo, "lite-dwsep")
    left, top, right, bottom = subject_box(result.alpha)
    assert 0 < left < right and result.box == (left, top, right, bottom)
    cut("--crop", "photo.jpg", "-o", "a.png")
    np.testing.assert_array_equal(pixels("a.png"), result.rgba[top:bottom, left:right])
    cut("photo.jpg", "-o", "b.png", "--crop", "7", "--mask", "also")
    window = slice(max(0, top - 7), bottom + 7), slice(max(0, left - 7), right + 7)
    np.testing.assert_array_equal(pixels("b.png"), result.rgba[window])
    np.testing.assert_array_equal(pixels("b-mask.png"), result.mask[window])
    np.testing.assert_array_equal(result.cropped(7).rgba, result.rgba[window])
    cut("photo.jpg", "-o", "c.png", "--crop", "50%")
    margin = round(0.5 * max(right - left, bottom - top))
    window = slice(max(0, top - margin), bottom + margin), slice(max(0, left - margin), right + margin)
    np.testing.assert_array_equal(pixels("c.png"), result.rgba[window])


def test_masks_are_made_hard_and_rid_of_smaller_parts(photo):
    mask = u2slim.cut_out(photo, "lite-dwsep").mask
    cut("photo.jpg", "-o", "hard.png", "--mask", "only", "--threshold", "0.3")
    np.testing.assert_array_equal(pixels("hard.png"), np.where(mask >= 76.5, 255, 0))
    parts = np.zeros((20, 40), np.uint8)
    parts[2:6, 2:6], parts[10:19, 10:19], parts[10:19, 19] = 255, 200, 5
    parts[0, :] = 90
    expected = np.where(np.arange(40) < 8, 0, parts)
    expected[0] = 0
    np.testing.assert_array_equal(largest_part(parts), expected)
    np.testing.assert_array_equal(largest_part(parts // 4), parts // 4)
    np.testing.assert_array_equal(hard(expected, 1.0), 0)
    cut("photo.jpg", "-o", "largest.png", "--mask", "only", "--largest")
    np.testing.assert_array_equal(pixels("largest.png"), largest_part(mask))


def test_a_border_is_laid_round_the_photo_and_cut_off_again(photo):
    image = pixels(photo)
    pad = round(0.2 * max(image.shape))
    frame = np.ones(image.shape[:2], bool)
    frame[1:-1, 1:-1] = False
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]  # each is in two of the edges
    colour = np.concatenate([image[frame], corners]).mean(0).round()
    padded = np.broadcast_to(colour, (image.shape[0] + 2 * pad, image.shape[1] + 2 * pad, 3)).astype(np.uint8)
    padded[pad:-pad, pad:-pad] = image
    expected = to_8bit(open_net("lite-dwsep").runner()(padded))[pad:-pad, pad:-pad]
    cut("photo.jpg", "-o", "b.png", "--mask", "only", "--border", "20")
    np.testing.assert_array_equal(pixels("b.png"), expected)


def test_what_photos_carry(photo):
    image = Image.open(photo)
    exif, profile = Image.Exif(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    image.save("turned.jpg", exif=exif, icc_profile=profile, dpi=(300, 300))
    for ending in ("png", "webp", "jpg", "tif", "avif"):
        keep = "exif,icc" if ending in ("webp", "avif") else "exif,icc,dpi"
        cut("turned.jpg", "-o", f"all.{ending}", "--keep", keep)
        with Image.open(f"all.{ending}") as made:
            assert made.size == image.size[::-1], "upright"
            assert made.getexif().get(0x010F) == "a camera" and made.getexif().get(0x0112, 1) == 1
            assert made.info["icc_profile"] == profile
            if "dpi" in keep:
                assert made.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    cut("turned.jpg", "-o", "usual.png", "--mask", "also")
    with Image.open("usual.png") as made, Image.open("usual-mask.png") as mask:
        assert made.info["icc_profile"] == profile and not made.getexif()
        assert not mask.info.get("icc_profile")
    cut("turned.jpg", "-o", "none.png", "--keep", "none")
    with Image.open("none.png") as made:
        assert not made.info and not made.getexif()
    u2slim.cut_out("turned.jpg", "lite-dwsep").save("python.png")
    assert Image.open("python.png").info["icc_profile"] == profile
    tags = Image.Exif()
    tags[0x010F], tags[0x0112] = "a camera", 6
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200).save("deep.tif", exif=tags)
    image.convert("CMYK").save("print.tif", exif=tags)
    for name in ("deep", "print"):
        for ending in ("tif", "png"):
            cut(f"{name}.tif", "-o", f"{name}-2.{ending}", "--keep", "exif", "--crop")
            with Image.open(f"{name}-2.{ending}") as made:
                assert made.mode == "RGBA" and np.asarray(made)[..., 3].max() == 255
                assert (made.getexif()[0x010F] == "a camera" and 258 not in dict(made.getexif())) or ending == "tif"
    image.convert("CMYK").save("print.jpg", icc_profile=profile[:16] + b"CMYK" + profile[20:])
    cut("print.jpg", "-o", "print.png")
    with Image.open("print.png") as made:
        assert "icc_profile" not in made.info, "the result is RGB"


def test_colours_are_turned_into_srgbs(photo):
    wide = ImageCms.ImageCmsProfile(io.BytesIO(_wide_gamut()))
    Image.open(photo).save("wide.png", icc_profile=wide.tobytes())
    expected = ImageCms.profileToProfile(Image.open("wide.png"), wide, ImageCms.createProfile("sRGB"))
    assert np.abs(np.asarray(expected).astype(int) - pixels("wide.png")).max() > 20
    cut("wide.png", "-o", "srgb.png", "--srgb")
    np.testing.assert_array_equal(pixels("srgb.png")[..., :3], np.asarray(expected))
    assert "icc_profile" not in Image.open("srgb.png").info
    Image.open(photo).save("odd.png", icc_profile=b"\0" * 200)
    cut("odd.png", "-o", "x.png", "--srgb", status=1)


def _wide_gamut() -> bytes:
    """An sRGB profile whose red and green have changed places."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {
        bytes(profile[start : start + 4]): start
        for start in range(132, 132 + 12 * int.from_bytes(profile[128:132]), 12)
    }
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = (
        profile[green + 4 : green + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


def test_json_tells_of_each_photo(photo, capsys):
    Path("album").mkdir()
    Path("album/a.jpg").write_bytes(photo.read_bytes())
    Path("album/broken.jpg").write_bytes(photo.read_bytes()[:900])
    cut("album", "-o", "out", "--json", status=1)
    printed = capsys.readouterr()
    told = {line["photo"]: line for line in map(json.loads, printed.out.splitlines())}
    assert set(told) == {"album/a.jpg", "album/broken.jpg"}
    assert "truncated" in told["album/broken.jpg"]["error"]
    result = u2slim.cut_out(photo, "lite-dwsep")
    facts = told["album/a.jpg"]
    assert facts["files"] == ["out/masks/a.png", "out/cutouts/a.png"]
    assert facts["box"] == list(result.box)
    assert facts["share"] == pytest.approx(result.alpha.mean() / 255, abs=1e-4)
    assert 0.5 < facts["confidence"] <= 1 and 0 < facts["seconds"] < 60
    assert "1 of 2 photos done" in printed.err
    cut("album", "-o", "out", "--json", status=1)
    again = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert again[0] == {"photo": "album/a.jpg", "files": facts["files"], "skipped": True} and "error" in again[1]


def test_places(photo, capsys):
    """OUT is what it is, or else what its name says; and results beside photos are no photos."""
    Path("x").mkdir()
    Path("x/photo.jpg").write_bytes(photo.read_bytes())
    cut("photo.jpg", "x/photo.jpg")
    cut("*.jpg", "x")
    cut("photo.jpg", "photo-cut.png", "x/*", "--format", "webp")
    names = {path.as_posix() for path in Path().rglob("*.*")}
    assert names == {f"{folder}photo{end}" for folder in ("", "x/") for end in (".jpg", "-cut.png", "-cut.webp")}
    Path("photo.png").write_bytes(Path("photo-cut.png").read_bytes())
    cut("photo.jpg", "photo.png", "-o", "both")
    assert sorted(path.name for path in Path("both/masks").iterdir()) == ["photo.jpg.png", "photo.png.png"]
    cut("photo.jpg", "x/photo.jpg", "-o", "apart")
    assert Path("apart/masks/photo.png").is_file() and Path("apart/masks/x/photo.png").is_file()
    cut("photo.jpg", "-o", "results.v2/")
    cut("x", "-o", "results.v3")
    assert Path("results.v2/cutouts/photo.png").is_file() and Path("results.v3/cutouts/photo.png").is_file()
    Path("two").mkdir()
    for name in ("two/a.jpg", "two/a.png"):
        Path(name).write_bytes(photo.read_bytes())
    for _ in range(2):
        cut("two")
        assert sorted(path.name for path in Path("two").iterdir()) == [
            "a.jpg",
            "a.jpg-cut.png",
            "a.png",
            "a.png-cut.png",
        ]
    assert "passed over, as results of photos beside them: two/a.jpg-cut.png and 1 more" in capsys.readouterr().err
    for _ in range(2):
        cut("two/a.jpg", "results.v3", "-o", "results.v3")  # as a shell makes of * in a folder with results
    Path("dir.png").mkdir()
    cut("photo.jpg", "-o", "dir.png")
    assert Path("dir.png/cutouts/photo.png").is_file()
    Path("note").write_text("no picture")
    for words, sentence in {
        ("photo.jpg", "-o", "results.v4"): "could be a file or a folder",
        ("photo.jpg", "photo.png", "-o", "a.png"): "a.png is one file for 2 photos",
        ("photo.jpg", "-o", "a.webp", "--format", "png"): "a.webp is no png file",
        ("photo.jpg", "-o", "a.png", "--format", "webp-lossless"): "a.png is no webp-lossless file",
        ("nothing*.jpg",): "No photo or folder matches nothing*.jpg",
        ("photo.jpg", "-o", "a.webp", "--keep", "dpi"): "webp files cannot store dpi",
        ("photo.jpg", "--mask", "only", "--background", "red"): "--background is for cut-outs",
        ("photo.jpg", "--background", "reddish"): "reddish is no background",
        ("photo.jpg", "--mask", "only", "--keep", "exif"): "--keep is for cut-outs",
        ("photo.jpg", "--srgb", "--keep", "icc"): "--srgb changes the colours",
        ("-", "photo.jpg"): "A pipe takes one photo",
        ("-", "-o", "folder"): "folder is not a picture's name",
        ("",): "One of the inputs has no name",
        ("photo.jpg", "-o", "note"): "-o note is a file, but not a picture",
        ("photo.jpg", "--background", ""): "is no background",
        ("photo.jpg", "--background", "#ff000080"): "give an opaque colour",
        ("-", "--mask", "also"): "A pipe has room for one picture",
        ("-", "--json"): "would both go to standard output",
    }.items():
        capsys.readouterr()
        cut(*words, status=1)
        assert sentence in capsys.readouterr().err, words


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--threshold", "2"), "2: give a number from 0 to 1"),
        (("--border", "-5"), "give a number of per cent"),
        (("--crop=wide",), "wide: give a margin in pixels"),
        (("--keep", "gps"), "gps: give some of exif, icc, dpi"),
        (("--format", "gif"), "invalid choice: 'gif'"),
    ],
)
def test_wrong_values(photo, capsys, words, sentence):
    with pytest.raises(SystemExit) as status:
        main(["cut", "photo.jpg", *words])
    assert status.value.code == 2 and sentence in capsys.readouterr().err


@pytest.mark.parametrize("runtime", ["opencv", "onnxruntime", "openvino", "torch"])
def test_a_device_that_is_not_there_is_named(photo, capsys, runtime):
    if runtime != "opencv":
        pytest.importorskip(runtime)
    cut("photo.jpg", "--runtime", runtime, "--device", "npu7", status=1)
    assert f"{runtime} has no device npu7 here" in capsys.readouterr().err


def test_pipes_refuse_what_is_no_photo():
    done = piped("-", given=b"a letter")
    assert done.returncode == 1 and done.stdout == b""
    assert done.stderr.decode().strip() == (
        "u2slim: standard input cannot be read (not an image of a known kind); replace or remove it."
    )


def test_a_reader_that_has_had_enough_is_no_fault(photo):
    command = [sys.executable, "-m", "u2slim.app.main", "cut", "photo.jpg", "-o", "-", *NET]
    env = os.environ | THREADS | {"PYTHONPATH": str(REPO / "src")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141


def test_a_runtime_that_throws_ends_a_pipe_in_a_sentence(photo, monkeypatch, capfdbinary):
    def throw(self, blob):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("u2slim.runtime.OpenCVRunner.run", throw)
    cut("photo.jpg", "-o", "-", status=1)
    assert capfdbinary.readouterr() == (b"", b"u2slim: photo.jpg: RuntimeError: no such kernel\n")


def test_another_picture_of_the_same_name_is_another_background(photo, capsys):
    for colour in ("red", "blue", "blue"):
        Image.new("RGB", (8, 8), colour).save("ground.png")
        cut("photo.jpg", "-o", "out", "--background", "ground.png")
    assert [line.count("skipped") for line in capsys.readouterr().out.splitlines()] == [0, 0, 1]
    assert pixels("out/cutouts/photo.png")[..., 2].mean() > 60


def test_a_name_as_long_as_can_be_ends_no_batch(photo, capsys):
    Path("album").mkdir()
    for name in ("a" * 240, "b" * 251):  # with a temporary name before it, or with another ending, too long
        Path(f"album/{name}.jpg").write_bytes(photo.read_bytes())
    Path("album/c.jpg").write_bytes(photo.read_bytes())
    cut("album", "-o", "out")
    assert len(list(Path("out/masks").iterdir())) == 3
    cut("album", "-o", "out2", "--format", "webp", status=1)
    printed = capsys.readouterr()
    assert "2 of 3 photos done" in printed.out and "its name is too long for those of its results" in printed.err


@pytest.mark.skipif(os.name != "posix", reason="names are no bytes there")
def test_names_in_no_encoding(photo):
    name = os.fsdecode(b"caf\xe9.jpg")
    Path(name).write_bytes(photo.read_bytes())
    done = piped(name, "-o", "out", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["photo"] == name
    assert piped(name, "-o", "out2").returncode == 0
    assert Path(os.fsdecode(b"out2/masks/caf\xe9.png")).is_file()


def test_words_alone(photo, capsys):
    for words in ([], ["cut"]):
        with pytest.raises(SystemExit) as status:
            main(words)
        assert status.value.code == 2 and "usage: u2slim" in capsys.readouterr().err
    photo.rename("2024_1.jpg")
    cut("--crop", "2024_1.jpg")
    assert Path("2024_1-cut.png").is_file()


def test_names_that_look_like_something_else(photo, tmp_path):
    for name in (
        "~draft.jpg",
        "-lead.jpg",
        "2024",
        "a=b,c&d#e$f 'g'.jpg",
        "Zürich (1).jpg",
        "写真.jpg",
        "new\nline.jpg",
    ):
        Path(name).write_bytes(photo.read_bytes())
        cut(name, "-o", "out/")
        stem = name.removesuffix(".jpg")
        assert Path(f"out/masks/{stem}.png").is_file(), name
        assert u2slim.cut_out(name, "lite-dwsep").share > 0
    assert sorted(path.name for path in tmp_path.glob("*-cut.png")) == []
    cut("-lead.jpg")
    assert Path("-lead-cut.png").is_file()


def test_what_is_no_photo_is_counted_and_named(photo, capsys):
    Path("album/video.jpg").mkdir(parents=True)  # as Synology makes such
    Path("album/one.jpg").write_bytes(photo.read_bytes())
    for name in ("a.mov", "b.MOV", "c.cr2", "note", ".hidden"):
        Path(f"album/{name}").touch()
    os.mkfifo("album/pipe.jpg")
    cut("album", "-o", "out")
    printed = capsys.readouterr()
    assert "1 of 1 photo done" in printed.out
    assert "passed over, as no photos: 2 .mov, 1 .cr2, 1 without an ending, 1 pipe, socket or device" in printed.err
    Path("album/one.jpg").unlink()
    cut("album", "-o", "out", status=1)
    assert "there is 2 .mov" in capsys.readouterr().err
    cut("/dev/null", "-o", "out", status=1)
    assert "/dev/null is a device or a socket, not a photo." in capsys.readouterr().err


def test_a_pipe_of_a_shell_is_a_photo(photo):
    command = f"{sys.executable} -m u2slim.app.main cut <(cat photo.jpg) -o out.png --net lite-dwsep --runtime opencv"
    env = os.environ | THREADS | {"PYTHONPATH": str(REPO / "src")}
    subprocess.run(["bash", "-c", command], env=env, check=True)
    cut("photo.jpg", "-o", "same.png")
    np.testing.assert_array_equal(pixels("out.png"), pixels("same.png"))


@cache
def wide_profile() -> bytes:
    """sRGB's primaries in another order, so that its colours cannot be taken for sRGB's."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    return bytes(profile).replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")


def test_over_a_background_colours_are_srgbs(photo):
    image = np.zeros((60, 80, 3), np.uint8)
    image[15:45, 20:60] = (230, 20, 20)
    Image.fromarray(image).save("wide.png", icc_profile=wide_profile())
    cut("wide.png", "-o", "plain.png", "--threshold", "0")
    with Image.open("plain.png") as plain:
        assert plain.info["icc_profile"] == wide_profile()  # and the photo's own numbers
        assert plain.getpixel((40, 30))[:3] == (230, 20, 20)
    cut("wide.png", "-o", "over.png", "--threshold", "0", "--background", "#808080")
    with Image.open("over.png") as over:
        assert "icc_profile" not in over.info
        red, green, blue = over.getpixel((40, 30))
        assert green > 200 > 60 > red and abs(red - blue) < 40
    u2slim.cut_out("wide.png", "lite-dwsep", threshold=0).save("api.png", "#808080")
    np.testing.assert_array_equal(pixels("api.png"), pixels("over.png"))
    Image.fromarray(image).save("ground.png", icc_profile=wide_profile())
    cut("photo.jpg", "-o", "ground-over.png", "--background", "ground.png", "--threshold", "1")
    assert pixels("ground-over.png")[190, 200, 1] > 200


def wall() -> np.ndarray:
    """A plain wall with a camera's noise."""
    noise = np.random.default_rng(0).normal(0, 3, (300, 400, 3))
    return (180 + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("net", ["lite-two-thirds", "lite-l", "lite-dwsep", "u2netp"])
def test_a_wall_has_no_subject(photo, capsys, net):
    Path("album").mkdir()
    Image.fromarray(wall()).save("album/wall.png")
    Image.fromarray(pixels(photo)).save("album/subject.png")
    assert main(["cut", "album", "-o", "out", "--net", net, "--runtime", "opencv"]) == 0
    assert pixels("out/masks/wall.png").max() == 0 < 200 < np.ptp(pixels("out/masks/subject.png"))
    assert "no subject in album/wall.png: the mask is empty" in capsys.readouterr().err
    result = u2slim.cut_out("album/wall.png", net)
    assert (result.box, result.share, result.confidence) == (None, 0, 0)
    assert u2slim.Segmenter(net)("album/wall.png").max() == 0
    assert u2slim.Segmenter(net, stretch=False)("album/wall.png").max() > 0


def test_a_white_logo_on_transparency_is_kept(photo):
    mask = render(3, 1)[1]
    logo = np.full((*mask.shape, 4), 255, np.uint8)
    logo[..., 3] = mask
    Image.fromarray(logo).save("logo.png")
    opaque = mask > 127
    for net in ("lite-two-thirds", "lite-l"):
        kept = u2slim.cut_out("logo.png", net).alpha[opaque] > 127
        assert kept.mean() > 0.9, net  # over white .13 of it was


# What changes nothing on purpose: how fast it runs, what is printed, and what is done again.
NO_CHANGE = {"--runtime", "--device", "--threads", "--workers", "--json", "--redo", "--help", "--output"}
NO_CHANGE |= {"--shard", "--manifest", "--ray"}  # which photos, and where the work is done
OTHER_VALUES = {
    "--mask": ["only"], "--background": ["red"], "--format": ["webp"], "--crop": ["3"], "--keep": ["exif"],
    "--srgb": [], "--border": ["20"], "--refine": ["guided"], "--largest": [], "--threshold": ["0.5"],
    "--colours": ["ml"], "--no-stretch": [], "--net": ["lite-half"], "--size": ["64"],
    "--mean": ["0"], "--std": ["1"], "--scale": ["255"], "--class": ["car"],
}  # fmt: skip


def two_subjects() -> np.ndarray:
    """A gray picture with a red and a less red spot, the second one soft, far from its edges."""
    image = np.full((60, 80, 3), 60, np.uint8)
    image[20:40, 10:30] = (240, 20, 20)
    image[25:32, 50:58] = (200, 20, 20)
    return cv2.GaussianBlur(image, (0, 0), 1.5)


@pytest.mark.parametrize("base", [[], ["--mask", "only"], ["--background", "blue"], ["--format", "jpeg"], ["--srgb"]])
def test_every_option_changes_the_results_or_is_refused(photo, tmp_path, capsys, base):
    """None is ignored in silence, whatever it is combined with."""
    commands: Any = main_parser()._subparsers
    actions = commands._group_actions[0].choices["cut"]._actions
    options = {word for action in actions for word in action.option_strings if word.startswith("--")}
    assert options == NO_CHANGE | set(OTHER_VALUES)
    pytest.importorskip("pymatting")
    exif = Image.Exif()
    exif[0x010E] = "a description"
    Image.fromarray(two_subjects()).save("photo.jpg", exif=exif, icc_profile=wide_profile())

    def results(*words: str) -> dict[str, bytes] | None:
        folder = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        try:
            status = main(["cut", "photo.jpg", "-o", str(folder), "--net", str(net), "--runtime", "opencv", *words])
        except SystemExit as refused:
            status = refused.code
        if status:
            assert len(capsys.readouterr().err.split()) > 5
            return None
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}

    net = write_plain_net(tmp_path / "red.onnx", 60, 80)
    plain = results(*base)
    assert plain
    for option, values in OTHER_VALUES.items():
        if option not in base:
            assert results(*base, option, *values) != plain, option
