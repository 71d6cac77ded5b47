"""ONNX files read into nets of torch's: every form of weights, bad files, and commands that are given one."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from omegaconf import OmegaConf
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from PIL import Image

from tests.conftest import REPO, TINY, cut, random_net, randomised, run, write_set
from tests.onnx_files import (
    SIDE,
    constants,
    convolutions,
    folded,
    name_by_numbers,
    put_in_another_order,
    set_weights,
    write_as_published,
)
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.evaluation.entries import open_models
from u2slim.export.half import compute_in_half, store_in_half
from u2slim.export.packed import store_packed
from u2slim.images.preprocess import ISNET_PREPROCESS, U2NET_PREPROCESS, Preprocess
from u2slim.models import ISNet, Net, U2Net, build_net
from u2slim.runtime import net_runner
from u2slim.runtime.onnx_convolutions import read_convolutions
from u2slim.runtime.onnx_reader import read_graph
from u2slim.tasks import SaliencyTask
from u2slim.training.distillation import Distillation
from u2slim.zoo import SHIPPED, NetHandle, open_net
from u2slim.zoo.checkpoints import write_net
from u2slim.zoo.fetch import NETS
from u2slim.zoo.onnx_net import is_folded, net_of_onnx

OTHER = Preprocess(SIDE, (0.1, 0.2, 0.3), (1.0, 2.0, 0.5), own_maximum=False)


def dense(name: str) -> Net:
    if name == "isnet":
        torch.manual_seed(1)
        return randomised(ISNet())
    return random_net(name)


@pytest.fixture(scope="module")
def lite() -> U2Net:
    return random_net()


@pytest.fixture(scope="module")
def lite_file(lite, tmp_path_factory) -> Path:
    return write_as_published(lite, tmp_path_factory.mktemp("lite") / "lite.onnx")


def image_for(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, 3, size, size)).astype(np.float32)


def by_torch(net: Net, image_13HW: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        return [logits.sigmoid().numpy() for logits in net(torch.from_numpy(image_13HW))]


def by_onnxruntime(path: Path, image_13HW: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options)
    (image,) = (value for value in session.get_inputs() if len(value.shape) == 4)
    return session.run(None, {image.name: image_13HW})


def largest_difference(path: Path, net: Net, size: int = SIDE) -> float:
    """Of any output from onnxruntime's, for one random image."""
    image = image_for(size)
    outputs = zip(by_onnxruntime(path, image), by_torch(net, image), strict=False)
    return max(float(np.abs(theirs - ours).max()) for theirs, ours in outputs)


# Each style writes `small` from the file `whole`, whose nodes have the published modules' names.


def as_published(whole: Path, small: Path) -> None:
    model = onnx.load(whole)
    put_in_another_order(model)  # so that names tell which convolution is which
    onnx.save(model, small)


def by_numbers(whole: Path, small: Path) -> None:
    model = onnx.load(whole)
    name_by_numbers(model)
    onnx.save(model, small)


def in_half(whole: Path, small: Path) -> None:
    store_in_half(whole, small)


def packed(whole: Path, small: Path) -> None:
    """On grids of 6 bits first, which `store_packed` finds."""
    model = onnx.load(whole)
    for node in convolutions(model):
        tensor = constants(model)[node.input[1]]
        weight_OIKK = numpy_helper.to_array(tensor)
        step_O111 = np.abs(weight_OIKK).max((1, 2, 3), keepdims=True) / 31
        tensor.CopyFrom(numpy_helper.from_array(np.round(weight_OIKK / step_O111) * step_O111, tensor.name))
    onnx.save(model, small)
    store_packed(small, small)


def computed_in_half(whole: Path, small: Path) -> None:
    compute_in_half(whole, small, [{"input.1": image_for(SIDE)}])


def dynamic(whole: Path, small: Path) -> None:
    quantize_dynamic(whole, small, weight_type=QuantType.QInt8)


def dynamic_unsigned(whole: Path, small: Path) -> None:
    quantize_dynamic(whole, small, weight_type=QuantType.QUInt8)


class OneImage(CalibrationDataReader):
    def __init__(self):
        self.images = iter([{"input.1": image_for(SIDE)}])

    def get_next(self) -> dict | None:
        return next(self.images, None)


def static(whole: Path, small: Path) -> None:
    quantize_static(whole, small, OneImage(), QuantFormat.QDQ, per_channel=True, op_types_to_quantize=["Conv"])


def external_data(whole: Path, small: Path) -> None:
    onnx.save(onnx.load(whole), small, save_as_external_data=True, location="weights.bin", size_threshold=0)


def nothing(weight_OIKK: np.ndarray) -> float:
    return 1e-6 * np.abs(weight_OIKK).max()


def rounding(weight_OIKK: np.ndarray) -> np.ndarray:
    """Half of float16's last place, and all of the smallest number that it holds: the converter has no 0 in between."""
    return 2**-11 * np.abs(weight_OIKK) + 2**-24


def half_a_step(weight_OIKK: np.ndarray) -> float:
    """Of 8 bits with a sign, over all of a convolution: +-127 is the largest weight."""
    return 0.5 * np.abs(weight_OIKK).max() / 127


def half_a_step_of_6_bits(weight_OIKK: np.ndarray) -> np.ndarray:
    return 0.5 * np.abs(weight_OIKK).max((1, 2, 3), keepdims=True) / 31 + rounding(weight_OIKK) * 1.1


def half_a_step_unsigned(weight_OIKK: np.ndarray) -> float:
    return 0.5 * (weight_OIKK.max(initial=0) - weight_OIKK.min(initial=0)) / 255


# By name: what writes the file, and how far weights, biases and, beside onnxruntime's, masks may be off.
STYLES: dict[str, tuple[Callable, Callable, float, float]] = {
    "as published": (as_published, nothing, 1e-6, 1e-5),
    "by numbers": (by_numbers, nothing, 1e-6, 1e-5),
    "in float16": (in_half, rounding, 1e-6, 1e-5),
    "packed": (packed, half_a_step_of_6_bits, 1e-6, 1e-5),
    "computed in float16": (computed_in_half, rounding, 1e-3, 5e-3),
    "dynamically quantised": (dynamic, half_a_step, 1e-6, 0.05),
    "unsigned": (dynamic_unsigned, half_a_step_unsigned, 1e-6, 0.05),
    "statically quantised": (static, nothing, 1e-3, 0.05),
    "beside the file": (external_data, nothing, 1e-6, 1e-5),
}


def own_steps(path: Path, net: Net) -> dict[str, np.ndarray]:
    """Of a statically quantised file: the scale of each output of each convolution, (O, 1, 1, 1)."""
    model = onnx.load(path)
    stored, makers = constants(model), {node.output[0]: node for node in model.graph.node}
    names = net.published_modules()
    steps = {}
    for node, one in zip(convolutions(model), read_convolutions(path).convolutions, strict=True):
        maker = makers.get(node.input[1])
        if maker is not None and maker.op_type == "DequantizeLinear":
            scale = numpy_helper.to_array(stored[maker.input[1]])
            steps[names.get(one.name, one.name)] = scale.reshape(-1, 1, 1, 1)
    return steps


def check(net: Net, whole: Path, small: Path, style: str) -> Net:
    """Write a file in a style, read it, and compare every convolution and the masks."""
    write, tolerance, of_biases, of_masks = STYLES[style]
    write(whole, small)
    read = open_net(small).net()
    assert (read.name, type(read), is_folded(read)) == (net.name, type(net), True)
    assert read.preprocess.size == SIDE and not read.training
    expected, steps_OIKK = folded(net), own_steps(small, net)
    assert len(expected) == 119
    for name, (weight_OIKK, bias_O) in expected.items():
        module = read.get_submodule(name)
        error_OIKK = np.abs(module.weight.detach().numpy() - weight_OIKK)
        assert (error_OIKK <= 1.001 * (tolerance(weight_OIKK) + steps_OIKK.get(name, 0) / 2)).all(), name
        assert np.abs(module.bias.detach().numpy() - bias_O).max() <= of_biases, name
    assert largest_difference(small, read) <= of_masks
    return read


@pytest.mark.parametrize("style", [style for style in STYLES if style != "unsigned"])
def test_every_convolution_of_a_lite_net_is_filled(lite, lite_file, tmp_path, style):
    read = check(lite, lite_file, tmp_path / "small.onnx", style)
    assert read.config["width"] == "lite" and read.preprocess == Preprocess(SIDE)
    if style == "as published":
        assert_same_bits(read, tmp_path / "small.onnx")


def assert_same_bits(net: Net, path: Path) -> None:
    """The net has the file's own numbers."""
    model = onnx.load(path)
    stored = {name: numpy_helper.to_array(tensor) for name, tensor in constants(model).items()}
    found, modules = read_convolutions(path), net.published_modules()
    for node, one in zip(convolutions(model), found.convolutions, strict=True):
        module = net.get_submodule(modules[one.name])
        np.testing.assert_array_equal(module.weight.detach().numpy(), stored[node.input[1]])
        np.testing.assert_array_equal(module.bias.detach().numpy(), stored[node.input[2]])
    assert {one.name for one in found.convolutions} == {name for name in modules if not name.endswith("bn_s1")}
    assert found.size == (SIDE, SIDE)


def test_every_convolution_of_an_isnet_is_filled(tmp_path):
    net = dense("isnet")
    path = write_as_published(net, tmp_path / "isnet.onnx")
    read = open_net(path).net()
    assert read.name == "isnet-standard" and is_folded(read) and len(folded(net)) == 119
    assert read.preprocess == Preprocess(SIDE, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), own_maximum=False)
    for name, (weight_OIKK, bias_O) in folded(net).items():
        module = read.get_submodule(name)
        assert np.abs(module.weight.detach().numpy() - weight_OIKK).max() <= nothing(weight_OIKK), name
        assert np.abs(module.bias.detach().numpy() - bias_O).max() <= 1e-6, name
    assert largest_difference(path, read) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ["full", "isnet"])
def test_every_convolution_of_a_net_of_full_size_is_filled(tmp_path, name, style):
    net = dense(name)
    whole = write_as_published(net, tmp_path / "whole.onnx")
    assert whole.stat().st_size == pytest.approx(176e6, rel=0.01)
    check(net, whole, tmp_path / "small.onnx", style)


def test_a_file_without_biases_has_none(lite_file, tmp_path):
    model = onnx.load(lite_file)
    for node in convolutions(model):
        del node.input[2:]
    onnx.save(model, tmp_path / "bare.onnx")
    net = net_of_onnx(tmp_path / "bare.onnx")
    assert not any(m.bias.any() for m in net.modules() if isinstance(m, torch.nn.Conv2d))


def says(whole: Path, path: Path, preprocess: Preprocess) -> onnx.ModelProto:
    """The same file, which says how its input is normalised."""
    model = onnx.load(whole)
    onnx.helper.set_model_props(model, {f"u2slim.{key}": text for key, text in preprocess.to_metadata().items()})
    onnx.save(model, path)
    return model


def test_what_a_file_says_of_its_input_is_kept(lite_file, tmp_path):
    model = says(lite_file, tmp_path / "other.onnx", OTHER)
    by_file = open_net(tmp_path / "other.onnx").runner("onnxruntime").preprocess
    assert by_file == Preprocess((SIDE, SIDE), OTHER.mean, OTHER.std, OTHER.own_maximum)
    sides = model.graph.input[0].type.tensor_type.shape.dim[2:]
    for dim, side in zip(sides, (96, SIDE), strict=True):
        dim.dim_value = side
    onnx.save(model, tmp_path / "other.onnx")
    net = open_net(tmp_path / "other.onnx").net()
    assert net.preprocess == Preprocess([96, SIDE], OTHER.mean, OTHER.std, OTHER.own_maximum)


def test_the_shipped_u2netp_gives_what_onnxruntime_gives():
    path = NETS / "u2netp.onnx"
    assert hashlib.md5(path.read_bytes()).hexdigest() == "8e83ca70e441ab06c318d82300c84806"
    handle = open_net("u2netp")
    net = handle.net()
    assert handle.path() == path and net.name == "u2net-lite-standard" and net.preprocess == U2NET_PREPROCESS
    runner = handle.runner("onnxruntime")
    image = U2NET_PREPROCESS(runner.resized(render(0, 2)[0]).transpose(2, 0, 1)[None].astype(np.float32))
    pairs = zip(by_onnxruntime(path, image), by_torch(net, image), strict=True)
    differences = [float(np.abs(theirs - ours).max()) for theirs, ours in pairs]
    assert len(differences) == 7 and max(differences) <= 1e-4  # 6.2e-5 was measured, of the first output 4.5e-5


def test_the_shipped_u2netp_is_the_published_one(real):
    ours, theirs = open_net("u2netp").net(), open_net(real / "weights" / "u2netp.pth").net()
    image = U2NET_PREPROCESS(np.random.default_rng(0).uniform(0, 255, (1, 3, 320, 320)).astype(np.float32))
    for one, other in zip(by_torch(ours, image), by_torch(theirs, image), strict=True):
        assert np.abs(one - other).max() <= 1e-4


@pytest.mark.slow
def test_the_published_isnet_gives_what_onnxruntime_gives():
    path = Path(os.environ.get("U2SLIM_NETS", "nowhere")) / "isnet-fp16.onnx"
    if not path.is_file():
        pytest.skip(
            "isnet-fp16.onnx absent: set U2SLIM_NETS to a folder with it; it is rembg's isnet-general-use.onnx in "
            "float16, which get_isnet.py in the folder of real data brings"
        )
    net = net_of_onnx(path)
    assert net.name == "isnet-standard" and net.preprocess == ISNET_PREPROCESS
    runner = open_net(path).runner("onnxruntime")
    image = ISNET_PREPROCESS(runner.resized(render(0, 1)[0]).transpose(2, 0, 1)[None].astype(np.float32))
    theirs, ours = by_onnxruntime(path, image)[0], by_torch(net, image)[0]
    difference = np.abs(theirs - ours)
    print(f"largest {difference.max():.1e}, mean {difference.mean():.1e}")
    assert difference.max() <= 2e-3 and difference.mean() <= 2e-5


def spoilt(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path, Path], None]:
    """What writes a file after a change."""

    def write(whole: Path, small: Path) -> None:
        model = onnx.load(whole)
        change(model)
        onnx.save(model, small)

    return write


def first_weights(model: onnx.ModelProto) -> tuple[str, np.ndarray]:
    name = convolutions(model)[0].input[1]
    return name, numpy_helper.to_array(constants(model)[name]).copy()


def web_page(whole: Path, small: Path) -> None:
    small.write_text("\n<!DOCTYPE html><html>Not Found</html>")


def truncated(whole: Path, small: Path) -> None:
    small.write_bytes(whole.read_bytes()[:-1000])


def empty(whole: Path, small: Path) -> None:
    small.write_bytes(b"")


def without_its_data(whole: Path, small: Path) -> None:
    external_data(whole, small)
    (small.parent / "weights.bin").unlink()


def with_cut_data(whole: Path, small: Path) -> None:
    external_data(whole, small)
    os.truncate(small.parent / "weights.bin", 1000)


def data_from_elsewhere(model: onnx.ModelProto) -> None:
    tensor = constants(model)[convolutions(model)[0].input[1]]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../elsewhere.bin")


def other_operators(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "HardSwish"


def one_fewer(model: onnx.ModelProto) -> None:
    model.graph.node.remove(convolutions(model)[-1])


def another_shape(model: onnx.ModelProto) -> None:
    name, weight_OIKK = first_weights(model)
    set_weights(model, name, weight_OIKK[:, :, 1:2, 1:2])


def another_dilation(model: onnx.ModelProto) -> None:
    next(a for a in convolutions(model)[0].attribute if a.name == "dilations").ints[:] = [2, 2]


def not_a_number(model: onnx.ModelProto) -> None:
    name, weight_OIKK = first_weights(model)
    weight_OIKK[3, 1, 0, 2] = np.nan
    set_weights(model, name, weight_OIKK)


def computed_weights(model: onnx.ModelProto) -> None:
    node = convolutions(model)[0]
    model.graph.node.insert(0, onnx.helper.make_node("Relu", [node.input[1]], ["computed"], "computed"))
    node.input[1] = "computed"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (web_page, "is a web page, not a net"),
        (truncated, r"\(4.6 MB\) is not an ONNX file: truncated"),
        (empty, r"\(0.0 MB\) holds no net: truncated"),
        (without_its_data, "keeps its weights in weights.bin beside it, which is missing"),
        (with_cut_data, "keeps its weights in weights.bin beside it, which is .* damaged"),
        (spoilt(data_from_elsewhere), "keeps its weights in ../elsewhere.bin"),
        (spoilt(other_operators), "has operators that neither U2-Net nor IS-Net has: HardSwish"),
        (spoilt(one_fewer), "118 convolutions instead of 119"),
        (spoilt(another_shape), r"convolution 1 \(stage1.rebnconvin.conv_s1\) has 64x3x1x1 instead of 64x3x3x3"),
        (
            spoilt(another_dilation),
            r"convolution 1 \(stage1.rebnconvin.conv_s1\) has stride 1, dilation 2 instead of stride 1, dilation 1",
        ),
        (spoilt(not_a_number), r"u2netp: convolution 1 \(stage1.rebnconvin.conv_s1\) has NaN"),
        (spoilt(computed_weights), "weights cannot be read: computed is computed by Relu"),
    ],
)
def test_what_is_no_such_net_is_refused_with_the_cause(lite_file, tmp_path, spoil, reason):
    path = tmp_path / "spoilt.onnx"
    spoil(lite_file, path)
    with pytest.raises(UserError, match=reason) as caught:
        open_net(path).net()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def as_onnx(name: str) -> NetHandle:
    """A shipped net where there is no clone, and so no checkpoint."""
    return replace(open_net(name), weights=None)


@pytest.mark.parametrize("name", ["lite-l", "lite-two-thirds", "lite-dwsep", "isnet-s"])
def test_the_shipped_files_give_the_nets_they_are_of_and_the_masks_of_onnxruntime(name):
    """Packed in 8 bits, in float16, depthwise-separable, and packed with one output of six."""
    handle = as_onnx(name)
    net = handle.net()
    if SHIPPED[name].checkpoint:
        expected = open_net(name).net()
    else:
        path = REPO / f"conf/model/{name.replace('-', '_')}.yaml"
        expected = build_net(OmegaConf.to_container(OmegaConf.load(path)))
    assert repr(net) == repr(expected)
    assert is_folded(net) and net.preprocess.size == SHIPPED[name].side
    photo = render(0, 1)[0]
    by_torch = net_runner(net, SHIPPED[name].side, "torch", stretch=False)(photo)
    assert np.abs(by_torch - handle.runner("onnxruntime", stretch=False)(photo)).max() < 1e-4
    assert [bool(head.weight.any()) for head in net.heads[1:]] == [name != "isnet-s"] * len(net.heads[1:])


def test_a_net_without_all_outputs_cannot_teach():
    with pytest.raises(UserError, match="isnet-s lacks some of its outputs and cannot teach"):
        Distillation("isnet-s")


@pytest.mark.parametrize(
    ("part", "shape", "cause"),
    [
        ("narrow", (16, 32, 1, 1), r"u2netp: convolution 2 \(encoder.0.encoder.0.conv.narrow\) has 16x32x1x1"),
        ("reduce", (17, 16, 3, 3), "u2netp: ranks that it cannot have"),
    ],
)
def test_a_net_in_a_form_that_ours_cannot_have_is_refused_with_the_cause(tmp_path, part, shape, cause):
    model = onnx.load(NETS / "lite-half.onnx")
    [node] = [node for node in convolutions(model) if node.name == f"encoder.0.encoder.0.conv.{part}"]
    set_weights(model, node.input[1], np.ones(shape, np.float32))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match=f"holds no net that torch can build.*{cause}"):
        net_of_onnx(tmp_path / "other.onnx")


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UserError, match="No net at .*nowhere.onnx"):
        net_of_onnx("nowhere.onnx")


def test_a_teacher_of_another_structure_or_normalisation_is_refused(lite_file, tmp_path, monkeypatch):
    conv = {"_target_": "u2slim.models.DepthwiseSeparableConv", "_partial_": True}
    student = {"_target_": "u2slim.models.U2Net", "width": "lite", "conv": conv}
    distillation = Distillation(str(lite_file), width="full")
    assert distillation.teacher.name == "u2net-lite-standard", "the file says it, not the width"
    SaliencyTask(student, SIDE, distill=distillation)
    says(lite_file, tmp_path / "other.onnx", OTHER)
    with pytest.raises(UserError, match="u2net-lite-standard cannot teach u2net-lite-dwsep, .* another normalisation"):
        SaliencyTask(student, SIDE, distill=Distillation(str(tmp_path / "other.onnx")))
    with torch.device("meta"):
        isnet = ISNet()
    monkeypatch.setattr(distillation, "teacher", isnet)
    with pytest.raises(UserError, match="isnet-standard cannot teach u2net-lite-dwsep, which has other outputs"):
        SaliencyTask(student, SIDE, distill=distillation)


def test_a_net_is_filled_and_taught_from_an_onnx_file(lite_file, tmp_path):
    write_set(tmp_path / "data/DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 6)
    file = (f"init.weights={lite_file}", "distill=teacher", f"task.distill.teacher={lite_file}")
    settings = ("model=grouped", "init=pretrained", "init.method=project", "init.count=4", *TINY, "data.val_count=2")
    printed = run("train.py", *settings, *file, "trainer.max_steps=1", "hydra.run.dir=out", cwd=tmp_path)
    assert "measuring BatchNorm's statistics of u2net-lite-standard on 4 photos" in printed
    assert f"also learning from {lite_file}: u2net-lite-standard" in printed
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["step"] == 1 and np.isfinite(metrics["val/loss"])
    net = open_net(tmp_path / "out/checkpoints/last.ckpt").net()
    assert net.name == "u2net-lite-grouped" and not is_folded(net)


def test_a_file_is_scored_as_it_is_and_by_torch(lite_file, tmp_path):
    write_set(tmp_path / "data/ECSSD", "images", "ground_truth_mask", 2)
    settings = ("runtime=[opencv,torch]", "data=ecssd", "latency=0", "workers=1", "hydra.run.dir=out")
    run("eval.py", f"checkpoint={lite_file}", *settings, cwd=tmp_path)
    results = json.loads((tmp_path / "out/metrics.json").read_text())["results"]
    assert [result["images"] for result in results] == [2] * 4  # two runtimes, with and without stretching
    assert len({result["MAE"] for result in results}) >= 2
    for stretch in (True, False):
        by_runtime = [result["MAE"] for result in results if result["stretch"] == stretch]
        assert by_runtime[0] == pytest.approx(by_runtime[1], abs=1e-3)
    facts = open_models([str(lite_file)])["lite"].facts
    assert (facts.runtime, facts.megabytes) == ("opencv", lite_file.stat().st_size / 1e6)


def test_a_file_is_exported_anew_and_read_again(lite, lite_file, tmp_path):
    settings = ("export.output=made.onnx", "export.count=1", "hydra.run.dir=out")
    run("export.py", f"checkpoint={lite_file}", *settings, cwd=tmp_path)
    said = {item.key: item.value for item in onnx.load(tmp_path / "made.onnx").metadata_props}
    assert said["u2slim.net"] == "u2net-lite-standard" and said["u2slim.preprocess"] == "embedded"
    assert said["u2slim.weights"].startswith("lite.onnx, SHA-256 ")
    net = open_net(tmp_path / "made.onnx").net()
    assert net.preprocess == Preprocess(SIDE)
    for name, (weight_OIKK, _) in folded(lite).items():
        weight = net.get_submodule(name).weight.detach().numpy()
        assert np.abs(weight - weight_OIKK).max() <= nothing(weight_OIKK), name


@pytest.mark.slow
def test_every_kind_of_file_that_we_export_is_read_again(tmp_path):
    net = open_net("u2netp").net()
    net.preprocess = Preprocess(160, (0.48, 0.46, 0.41), (0.23, 0.23, 0.23), own_maximum=False)
    write_net(net, 160, tmp_path / "other.ckpt")
    kinds = ("export.preprocess=[embedded,external]", "export.precision=[fp32,fp16,fp16_compute]")
    settings = ("export.output=made", "export.count=2", "export.min_iou=0.5")
    run("export.py", "checkpoint=other.ckpt", *kinds, *settings, "hydra.run.dir=out", cwd=tmp_path)
    is_open = ("export.dynamic=true", "export.output=made/dynamic.onnx")
    run("export.py", "checkpoint=other.ckpt", *is_open, "hydra.run.dir=out", cwd=tmp_path)
    made = sorted((tmp_path / "made").glob("*.onnx"))
    assert len(made) == 7
    for path in made:
        read = open_net(path).net()
        if "external" in path.name:
            assert read.preprocess == net.preprocess
        for name, (weight_OIKK, _) in folded(net).items():
            error_OIKK = np.abs(read.get_submodule(name).weight.detach().numpy() - weight_OIKK)
            assert (error_OIKK <= 1.001 * rounding(weight_OIKK)).all(), (path.name, name)


def test_u2slim_cut_takes_a_file_in_every_runtime(lite_file, tmp_path):
    Image.fromarray(render(0, 1)[0]).save(tmp_path / "photo.png")
    for runtime in ("opencv", "torch"):
        settings = ("--net", lite_file, "--mask", "only", "--runtime", runtime, "-o", f"{runtime}.png")
        assert f"1 of 1 photo done with {runtime}" in cut("photo.png", *settings, cwd=tmp_path)
    masks = [np.asarray(Image.open(tmp_path / f"{runtime}.png")).astype(int) for runtime in ("opencv", "torch")]
    assert masks[0].std() > 10 and np.abs(masks[0] - masks[1]).max() <= 1


def test_only_an_isnet_is_taken_for_one(tmp_path):
    """A ResNet's first convolution halves the photo, too, but ReLU follows; such files are normalised as U2-Net's."""
    shapes = {"halving": (4, 3, 3, 3), "last": (1, 4, 1, 1)}
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    image, mask = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", [1, 3, 8, 8]), ("mask", [1, 1, 4, 4]))
    )
    halving = helper.make_node("Conv", ["image", "halving"], ["halved"], strides=[2, 2], pads=[1, 1, 1, 1])
    relu = helper.make_node("Relu", ["halved"], ["positive"])
    for between, value, expected in (([relu], "positive", U2NET_PREPROCESS), ([], "halved", ISNET_PREPROCESS)):
        nodes = [halving, *between, helper.make_node("Conv", [value, "last"], ["mask"])]
        onnx.save(helper.make_model(helper.make_graph(nodes, "net", [image], [mask], weights)), tmp_path / "net.onnx")
        assert read_graph(tmp_path / "net.onnx").preprocess == replace(expected, size=(8, 8))
