"""Masks of chosen classes, by a net that tells classes apart: in Python, by command, over HTTP and of clips."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import u2slim
from tests.onnx_files import write_class_net
from u2slim.app import work
from u2slim.app.main import main
from u2slim.app.received import Limits
from u2slim.app.service import Service
from u2slim.zoo import open_net

HEIGHT, WIDTH = 48, 64
NAMES = "red, green, blue, traffic light"


def scene() -> np.ndarray:
    """A red and a green spot, soft at their edges, on blue."""
    image = np.full((HEIGHT, WIDTH, 3), (10, 20, 200), np.uint8)
    image[8:30, 6:24] = (250, 10, 20)
    image[20:40, 36:56] = (15, 240, 10)
    return cv2.GaussianBlur(image, (0, 0), 1.2)


def share_of(image: np.ndarray, *numbers: int) -> np.ndarray:
    """The softmax probability of classes, by its formula."""
    logits = np.dstack([6 * image.astype(np.float64) / 255, np.full(image.shape[:2], 3.0)])
    powers = np.exp(logits)
    return powers[..., numbers].sum(-1) / powers.sum(-1)


@pytest.fixture
def net(tmp_path, monkeypatch) -> str:
    """A net's file; the working folder has a photo for it."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scene()).save("photo.png")
    return str(write_class_net(tmp_path / "net.onnx", HEIGHT, WIDTH))


def cut(net: str, *words: str, ok: bool = True) -> None:
    assert main(["cut", "photo.png", "--net", net, "--runtime", "opencv", *words]) == (0 if ok else 1)


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_the_mask_is_the_summed_probability_of_the_classes_stretched_as_any_mask(net):
    for names, numbers in ((["red"], [0]), (["green", "red"], [0, 1]), (["traffic light"], [3])):
        share = share_of(scene(), *numbers)
        plain = u2slim.Segmenter(net, classes=names, stretch=False)("photo.png")
        np.testing.assert_allclose(plain, share, atol=1e-5)
        stretched = (share - share.min()) / (share.max() - share.min()) if share.max() >= 0.3 else 0 * share
        result = u2slim.cut_out("photo.png", net, classes=names)
        np.testing.assert_allclose(result.mask, 255 * stretched, atol=0.51)
        assert result.confidence == pytest.approx(share[stretched >= 0.5].mean() if share.max() >= 0.3 else 0, abs=1e-5)
        cut(net, "-o", "mask.png", "--mask", "only", "--no-stretch", "--class", ",".join(names))
        np.testing.assert_allclose(pixels("mask.png"), 255 * share, atol=0.51)
    segmenter = u2slim.Segmenter(net, "onnxruntime", classes="red")
    np.testing.assert_array_equal(segmenter([scene(), scene()[::-1]])[1], segmenter(scene()[::-1]))


def test_the_options_for_masks_do_with_it_what_they_do_with_any_mask(net, capsys):
    cut(net, "-o", "out", "--class", "red,green", "--json")
    told = json.loads(capsys.readouterr().out.splitlines()[0])
    assert sorted(path.parent.name for path in Path("out").glob("*/*.png")) == ["cutouts", "masks"]
    result = u2slim.cut_out("photo.png", net, classes=["red", "green"])
    np.testing.assert_array_equal(pixels("out/masks/photo.png"), result.mask)
    np.testing.assert_array_equal(pixels("out/cutouts/photo.png"), result.rgba)
    assert tuple(told["box"]) == result.box and told["subject"] == "found"
    wanted = "--largest", "--threshold", ".5", "--background", "white", "--crop"
    cut(net, "-o", "one.png", "--class", " green , red", *wanted)
    (left, top, right, bottom), spot = result.box, pixels("one.png")
    assert spot.shape[0] < bottom - top and spot.shape[1] < right - left, "one of the two spots is left"
    cut(net, "-o", "out", "--class", "red")  # is another result, and not done already
    red = u2slim.cut_out("photo.png", net, classes=["red"]).mask
    np.testing.assert_array_equal(pixels("out/masks/photo.png"), red)
    cut(net, "-o", "map")
    assert set(np.unique(pixels("map/classes/photo.png"))) == {0, 1, 2, 3}, "without the option it tells classes apart"


def test_classes_that_cannot_be_chosen_are_refused_with_those_that_can(net, capsys):
    cut(net, "--class", "red,car", ok=False)
    assert f"car is no class of this net: choose some of {NAMES}." in capsys.readouterr().err
    cut("lite-dwsep", "--class", "car", ok=False)
    assert "car: this net makes masks of the subject and knows no classes." in capsys.readouterr().err
    cut(net, "--background", "white", ok=False)
    assert f"choose the mask's classes with --class, from {NAMES}." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cut(net, "--class", " , ")
    assert "--class: give the names of classes, with commas between" in capsys.readouterr().err
    with pytest.raises(u2slim.UserError, match=rf"tells classes apart: choose .*classes=\[...\], from {NAMES}"):
        u2slim.Segmenter(net)
    with pytest.raises(u2slim.UserError, match=f"No class is chosen: choose some of {NAMES}"):
        u2slim.cut_out("photo.png", net, classes=[])
    with pytest.raises(u2slim.UserError, match="the Segmenter is open already"):
        u2slim.cut_out("photo.png", u2slim.Segmenter(net, classes="red"), classes="blue")
    assert not list(Path().glob("photo-*"))


def test_a_server_takes_classes_with_each_photo(net, monkeypatch):
    monkeypatch.setattr(work, "OPENED", work.Opened())
    work.use(open_net(net).runner("opencv"))
    photo = Path("photo.png").read_bytes()
    with (
        Service(net, lambda: ThreadPoolExecutor(1), Limits(1, 300_000, 1_000_000, 5)) as service,
        TestClient(service.app()) as client,
    ):
        for query, words in (("class=red", []), ("class=red%2Cgreen&no-stretch=1", ["--no-stretch"])):
            cut(net, "-o", "cut.png", "--class", query[6:].partition("&")[0].replace("%2C", ","), *words)
            answer = client.post(f"/cut?{query}", content=photo)
            assert answer.status_code == 200 and answer.content == Path("cut.png").read_bytes()
        refused = client.post("/cut?class=car", content=photo)
        assert refused.status_code == 422 and NAMES in refused.json()["error"]


def test_a_clip_of_one_class(net, capsys):
    av = pytest.importorskip("av")
    with av.open("clip.mov", "w") as out:
        stream = out.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgb24"
        for shift in range(3):
            frame = av.VideoFrame.from_ndarray(np.roll(scene(), 4 * shift, 1), "rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    assert main(["video", "clip.mov", "--net", net, "--runtime", "opencv"]) == 1
    assert f"choose the mask's classes with --class, from {NAMES}" in capsys.readouterr().err
    assert main(["video", "clip.mov", "-o", "cut.mov", "--net", net, "--runtime", "opencv", "--class", "red"]) == 0
    with av.open("cut.mov") as clip:
        alpha = [frame.to_ndarray(format="rgba")[..., 3] for frame in clip.decode(video=0)]
    red = u2slim.cut_out("photo.png", net, classes="red").mask
    for shift, found in enumerate(alpha):
        assert np.abs(found.astype(int) - np.roll(red, 4 * shift, 1)).mean() < 3
