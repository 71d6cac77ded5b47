"""ONNX files of other projects: what their input is made of, what is no mask, and files that are damaged or hostile."""

import random
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from omegaconf import OmegaConf
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.conftest import cut, random_net
from tests.onnx_files import write_as_published
from u2slim import Preprocess, Segmenter
from u2slim.errors import UserError
from u2slim.evaluation.entries import open_models
from u2slim.evaluation.settings import configured_models
from u2slim.images.preprocess import ISNET_PREPROCESS, U2NET_PREPROCESS
from u2slim.runtime import onnx_runner
from u2slim.runtime.onnx_reader import read_graph
from u2slim.zoo import open_net
from u2slim.zoo.fetch import NETS

FLOAT = TensorProto.FLOAT
INPUT, OUTPUT = ("x", FLOAT, [1, 3, 32, 32]), ("y", FLOAT, [1, 1, 32, 32])
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
ASKED = ("--mean", "0.5,0.4,0.3", "--std", "0.2", "--scale", "255")


def weights(name: str, *shape: int) -> TensorProto:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 0.3
    return numpy_helper.from_array(values, name)


def write(path: Path, nodes: list, inputs: tuple = (INPUT,), outputs: tuple = (OUTPUT,), constants: tuple = ()) -> Path:
    ends = ([helper.make_tensor_value_info(*one) for one in end] for end in (inputs, outputs))
    graph = helper.make_graph(nodes, "theirs", *ends, constants or [weights("w", 1, 3, 3, 3)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def conv(source: str = "x", target: str = "c", **settings) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, "w"], [target], pads=[1, 1, 1, 1], **settings)


def node(kind: str, source: str = "c", target: str = "y", **settings) -> onnx.NodeProto:
    return helper.make_node(kind, [source], [target], **settings)


@pytest.fixture
def theirs(tmp_path) -> Path:
    """A net of no known structure that does not say how its input is normalised."""
    return write(tmp_path / "theirs.onnx", [conv(), node("Sigmoid")])


def mask_by_hand(path: Path, mean: list[float], std: list[float], divisor: float) -> np.ndarray:
    import onnxruntime

    image_HW3 = np.asarray(Image.fromarray(PHOTO).resize((32, 32))).astype(np.float32)
    blob = ((image_HW3 / divisor - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)[None]
    return onnxruntime.InferenceSession(path).run(None, {"x": blob.astype(np.float32)})[0][0, 0]


@pytest.mark.parametrize(
    ("asked", "by_hand"),
    [
        (("0.5,0.4,0.3", "0.2", "255"), ([0.5, 0.4, 0.3], [0.2] * 3, 255)),
        (([0, 0, 0], 1, 255), ([0] * 3, [1] * 3, 255)),
        (((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), 1), ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4], 1)),
        (("0.485,0.456,0.406", "0.229,0.224,0.225", "maximum"), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], None)),
    ],
)
def test_an_input_is_made_as_asked(theirs, asked, by_hand):
    """The weights are linear up to the sigmoid, so another normalisation shows in each value."""
    runner = open_net(theirs, Preprocess.given(*asked)).runner("onnxruntime", stretch=False)
    image_HW3 = np.asarray(Image.fromarray(PHOTO).resize((32, 32))).astype(np.float32)
    mean, std, divisor = by_hand
    expected = mask_by_hand(theirs, mean, std, divisor or float(image_HW3.max()))
    np.testing.assert_allclose(runner.probability(image_HW3), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("0,0,0", None, 255), "mean, std and scale belong together, and std is not given"),
        (("0,0,0", None, None), "std and scale is not given"),
        (("0,0", "1", "255"), "mean=0,0: give three numbers"),
        (("nan", "1", "255"), "mean=nan: give three"),
        (("red", "1", "255"), "mean=red: give three"),
        (("0", "0,1,1", "255"), "std=0,1,1: deviations are above 0"),
        (("0", "1", "256"), "scale=256 is not known"),
    ],
)
def test_what_cannot_be_asked(asked, reason):
    with pytest.raises(UserError, match=reason):
        Preprocess.given(*asked)


def test_a_file_that_says_nothing_and_looks_like_nothing_is_not_guessed(theirs, tmp_path):
    for open_it in (Segmenter, lambda path: open_net(path).runner(), open_models):
        with pytest.raises(UserError, match="does not say how its input is normalised.*--mean.*--std.*--scale"):
            open_it(str(theirs))
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    settings = ("photo.png", "--net", theirs.name, "--mask", "only", "--runtime", "opencv", "-o", "mask.png")
    assert "does not say how" in cut(*settings, cwd=tmp_path, ok=False)
    said = cut(*settings, *ASKED, cwd=tmp_path)
    assert "takes mean 0.5,0.4,0.3 and deviation 0.2,0.2,0.2 after a division by 255, as given" in said
    made = [open_net(theirs, Preprocess.given(*asked)).runner("opencv") for asked in ((0, 1, 255), (0, 1, "maximum"))]
    assert made[0].fingerprint() != made[1].fingerprint(), "or photos of the one would be passed over for the other"
    expected = Segmenter(open_net(theirs, Preprocess.given("0.5,0.4,0.3", "0.2", 255)))(PHOTO)
    written = np.asarray(Image.open(tmp_path / "mask.png"))
    assert np.abs(written - np.rint(expected * 255)).max() <= 1


def test_what_a_u2net_is_taken_for_is_said(tmp_path, capsys):
    path = write_as_published(random_net(), tmp_path / "lite.onnx")
    for open_it in (lambda: open_net(path).runner("opencv").preprocess, lambda: open_net(path).net().preprocess):
        assert open_it().same_pixels(U2NET_PREPROCESS)
    said = capsys.readouterr().err
    assert (
        f"{path} takes mean 0.485,0.456,0.406 and deviation 0.229,0.224,0.225 after a division by its maximum" in said
    )
    assert said.count("as it looks like U2-Net; else give mean, std and scale") == 1
    other = Preprocess.given("0.5", "1", 255)
    for asked in (open_net(path, other).runner("opencv").preprocess, open_net(path, other).net().preprocess):
        assert asked.same_pixels(ISNET_PREPROCESS)


def test_a_contradiction_is_refused(tmp_path):
    other = Preprocess.given("0.5", "1", 255)
    copy = tmp_path / "copy.onnx"
    copy.write_bytes((NETS / "u2netp.onnx").read_bytes())
    model = onnx.load(copy)
    onnx.helper.set_model_props(model, {f"u2slim.{key}": text for key, text in U2NET_PREPROCESS.to_metadata().items()})
    onnx.save(model, tmp_path / "says.onnx")
    whys = {
        NETS / "lite-half.onnx": "normalises its input itself: leave out mean, std and scale",
        copy: "is a published net and takes mean 0.485",
        tmp_path / "says.onnx": "says mean 0.485.*, and not mean 0.5,0.5,0.5 and deviation 1,1,1",
    }
    for path, why in whys.items():
        with pytest.raises(UserError, match=why):
            open_net(path, other).runner("opencv")
        if path != NETS / "lite-half.onnx":
            assert open_net(path, U2NET_PREPROCESS).runner("opencv").preprocess.own_maximum
    with pytest.raises(UserError, match="normalises its input itself"):
        open_net("lite-half", other).runner("opencv")
    with pytest.raises(UserError, match="each of these nets states how its input is normalised"):
        open_models(["lite-half", str(copy)], "opencv", other)


@pytest.mark.slow
def test_eval_takes_them_for_the_nets_that_do_not_say_it(theirs):
    settings = {"models": [str(theirs), "lite-half"], "checkpoint": None, "init": None, "refine": None}
    settings |= {"runtime": "opencv", "mean": [0.5, 0.4, 0.3], "std": 0.2, "scale": 255}
    opened = configured_models(OmegaConf.create(settings))
    expected = replace(Preprocess.given("0.5,0.4,0.3", "0.2", 255), size=(32, 32))
    assert [model.runner.preprocess for model in opened.values()] == [expected, None]
    with pytest.raises(UserError, match="belong together, and std is not given"):
        configured_models(OmegaConf.create(settings | {"std": None}))


def foreign(folder: Path) -> dict[str, tuple[Path, str]]:
    """A file of each kind, and the reason why it is refused."""
    sigmoid, turned = node("Sigmoid"), node("Transpose", "x", "t", perm=[0, 3, 1, 2])
    two, one, five = (weights("w", count, 3, 3, 3) for count in (2, 1, 5))
    last, cast = [turned, conv("t"), sigmoid], [node("Cast", "x", "f", to=FLOAT), conv("f"), sigmoid]
    scaled = helper.make_node("Mul", ["z", "k"], ["y"])
    k = numpy_helper.from_array(np.float32([255]), "k")
    askew = [conv(), node("Sigmoid", "c", "z"), node("Transpose", "z", "y", perm=[0, 1, 3, 2])]
    add = helper.make_node("Add", ["x", "second"], ["s"])
    wide, tall = ("x", FLOAT, [1, 3, 32, 64]), ("y", FLOAT, [1, 1, 64, 32])
    made = {
        "logits": ([conv(target="y")], {}, "its output needs a sigmoid"),
        "255": ([conv(), node("Sigmoid", "c", "z"), scaled], {"constants": (one, k)}, "values of .* no probability"),
        "softmax": ([conv(), node("Softmax", axis=1)], {"constants": (two,)}, r"of shape \(1, 2, 32, 32\)"),
        "argmax": ([conv(), node("ArgMax", axis=1)], {"constants": (five,)}, "numbers of classes"),
        "last": (last, {"inputs": (("x", FLOAT, [1, 32, 32, 3]),)}, "with the colours last"),
        "last-open": (last, {"inputs": (("x", FLOAT, ["b", "h", "w", 3]),)}, "with the colours last"),
        "uint8": (cast, {"inputs": (("x", TensorProto.UINT8, [1, 3, 32, 32]),)}, "x is uint8, not float32"),
        "float16": (cast, {"inputs": (("x", TensorProto.FLOAT16, [1, 3, 32, 32]),)}, "x is float16, not float32"),
        "two": ([add, conv("s"), sigmoid], {"inputs": (INPUT, ("second", *INPUT[1:]))}, r"2 inputs \(x, second\)"),
        "half": ([conv(strides=[2, 2]), sigmoid], {}, r"of shape \(1, 1, 16, 16\)"),
        "askew": (askew, {"inputs": (wide,), "outputs": (tall,)}, r"of shape \(1, 1, 64, 32\) for an image of 64x32"),
    }
    kinds = {"argmax": TensorProto.INT64}
    return {
        name: (
            write(
                folder / f"{name}.onnx",
                nodes,
                **({"outputs": (("y", kinds.get(name, FLOAT), ["a", "b", "c", "d"]),)} | settings),
            ),
            reason,
        )
        for name, (nodes, settings, reason) in made.items()
    }


@pytest.mark.parametrize("runtime", ["opencv", "onnxruntime", "openvino"])
def test_what_makes_no_mask_is_refused_in_words(tmp_path, runtime):
    for path, reason in foreign(tmp_path).values():
        with pytest.raises(UserError, match=reason):
            onnx_runner(path, runtime)(PHOTO)


@pytest.mark.parametrize("runtime", ["opencv", "onnxruntime", "openvino"])
def test_masks_of_other_forms_are_right(tmp_path, theirs, runtime):
    expected = onnx_runner(theirs, runtime)(PHOTO)
    z = node("Sigmoid", "c", "z")
    forms = {
        "last": ([conv(), z, node("Transpose", "z", "y", perm=[0, 2, 3, 1])], ("y", FLOAT, [1, 32, 32, 1])),
        "half": (
            [conv(), z, node("Cast", "z", "y", to=TensorProto.FLOAT16)],
            ("y", TensorProto.FLOAT16, [1, 1, 32, 32]),
        ),
    }
    for name, (nodes, output) in forms.items():
        made = onnx_runner(write(tmp_path / f"{name}.onnx", nodes, outputs=(output,)), runtime)(PHOTO)
        assert np.abs(made - expected).max() < 2e-3, name
    is_open = write(
        tmp_path / "open.onnx",
        [conv(), node("Sigmoid")],
        (("x", FLOAT, ["b", 3, "h", "w"]),),
        (("y", FLOAT, ["b", 1, "h", "w"]),),
    )
    assert np.abs(onnx_runner(is_open, runtime, size=32)(PHOTO) - expected).max() < 1e-4


def test_logits_that_show_at_one_photo_only_are_refused_there(tmp_path):
    """The net is in 0..1 but for the brightest pixels."""
    nodes = [helper.make_node("ReduceMean", ["x", "axis"], ["m"]), helper.make_node("Mul", ["m", "k"], ["y"])]
    constants = (numpy_helper.from_array(np.array([1]), "axis"), numpy_helper.from_array(np.float32(0.4), "k"))
    path = write(tmp_path / "late.onnx", nodes, constants=constants)
    runner = onnx_runner(path, "onnxruntime", preprocess=Preprocess.given(0, 1, 255))
    runner(PHOTO)
    runner.preprocess = replace(runner.preprocess, std=(0.2, 0.2, 0.2))
    with pytest.raises(UserError, match="the net gives values of .* no probability"):
        runner(PHOTO)


def small_net(path: Path) -> bytes:
    """A file of ours in the small: packed files and files with metadata are read from the bytes themselves."""
    model = onnx.load(write(path, [conv(), node("Sigmoid")]))
    entries = {"preprocess": "external", "size": "32", **U2NET_PREPROCESS.to_metadata()}
    onnx.helper.set_model_props(model, {f"u2slim.{key}": text for key, text in entries.items()})
    path.write_bytes(model.SerializeToString())
    return path.read_bytes()


def outcome(path: Path) -> np.ndarray | None:
    """The mask by a file, or None where it is refused; anything else fails the test."""
    try:
        return onnx_runner(path, "onnxruntime")(PHOTO)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None


def test_files_cut_off_or_with_flipped_bytes_end_in_a_sentence_or_a_mask(tmp_path):
    whole, draw = small_net(tmp_path / "net.onnx"), random.Random(0)
    for length in range(0, len(whole), 7):
        (tmp_path / "net.onnx").write_bytes(whole[:length])
        outcome(tmp_path / "net.onnx")
    for _ in range(250):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 8))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        (tmp_path / "net.onnx").write_bytes(damaged)
        mask = outcome(tmp_path / "net.onnx")
        assert mask is None or (mask.shape == PHOTO.shape[:2] and mask.min() >= 0 and mask.max() <= 1)


def test_packed_files_with_flipped_bytes_are_read_or_refused(tmp_path):
    whole, draw = (NETS / "lite-s.onnx").read_bytes(), random.Random(0)
    for turn in range(12):
        damaged = bytearray(whole)
        for _ in range(40):
            damaged[draw.randrange(len(damaged)) if turn % 2 else draw.randrange(2000)] ^= 1 << draw.randrange(8)
        (tmp_path / "net.onnx").write_bytes(damaged)
        try:
            read_graph(tmp_path / "net.onnx")
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "entries",
    [
        {"mean": "red"},
        {"mean": "1 2"},
        {"mean": "nan nan nan"},
        {"std": "0 1 1"},
        {"std": "inf 1 1"},
        {"divisor": "7"},
        {"size": "99999999"},
        {"classes": "a,b", "palette": "#00"},
        {"batch": "-5", "size": "axb", "precision": "\n"},
    ],
)
def test_metadata_of_a_wrong_form_ends_in_a_sentence_or_a_mask(tmp_path, entries):
    small_net(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    kept = {item.key: item.value for item in model.metadata_props}
    onnx.helper.set_model_props(model, kept | {f"u2slim.{key}": text for key, text in entries.items()})
    model.graph.input[0].type.tensor_type.shape.dim[2].Clear()
    onnx.save(model, tmp_path / "net.onnx")
    mask = outcome(tmp_path / "net.onnx")
    assert mask is None or np.isfinite(mask).all()
    assert (mask is None) == (not entries.keys() & {"batch"}) or "size" in entries


def test_what_is_no_onnx_file_is_refused_by_whatever_opens_it(tmp_path):
    whole = small_net(tmp_path / "net.onnx")
    with zipfile.ZipFile(tmp_path / "zip.onnx", "w") as file:
        file.writestr("net.onnx", whole)
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "page.onnx").write_bytes(b"<!DOCTYPE html><title>Sign in</title>")
    (tmp_path / "text.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n")
    (tmp_path / "folder.onnx").mkdir()
    torch.save({"w": torch.zeros(3)}, tmp_path / "torch.onnx")
    for name in ("zip", "empty", "page", "text", "folder", "torch"):
        path = tmp_path / f"{name}.onnx"
        openers = [lambda p: open_net(p).runner("opencv"), lambda p: open_net(p).net(), Segmenter]
        if name != "folder":  # which may hold masks
            openers.append(lambda p: open_models(str(p)))
        for open_it in openers:
            with pytest.raises(UserError, match=name) as caught:
                open_it(path)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spoil", ["missing", "cut", "elsewhere"])
def test_weights_beside_a_file_that_are_not_there_are_named(tmp_path, spoil):
    path = tmp_path / "net.onnx"
    small_net(path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.data", size_threshold=0)
    data = tmp_path / "net.data"
    if spoil == "missing":
        data.unlink()
    elif spoil == "cut":
        data.write_bytes(data.read_bytes()[:-8])
    else:
        data.rename(tmp_path.parent / "net.data")
        model = onnx.load(path, load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = "../net.data"
        path.write_bytes(model.SerializeToString())
    for open_it in (read_graph, lambda p: open_net(p).net(), lambda p: open_models(str(p), "opencv")):
        with pytest.raises(UserError, match="keeps its weights in .*net.data beside it, which is missing or damaged"):
            open_it(path)


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("ending", [".pth", ".ckpt"])
def test_code_in_a_file_of_torchs_does_not_run(tmp_path, monkeypatch, ending):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"net{ending}"
    torch.save({"state_dict": Hostile()}, path)
    with pytest.raises(UserError, match="without running code|cannot be read as a checkpoint"):
        open_net(path).net()
    assert not (tmp_path / "ran").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in ({"hyper_parameters": {"model": {"_target_": "os.system"}}}, {"hyper_parameters": 3}, [1], {}):
            torch.save(content, path)
            with pytest.raises(UserError):
                open_net(path).net()


def test_a_file_that_may_not_be_read_is_named(theirs, monkeypatch):
    def refused(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match="theirs.onnx cannot be read .Permission denied.; check its permissions"):
        open_net(theirs)
