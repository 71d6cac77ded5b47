"""Files that several photos go through at once: each is answered as torch answers it alone."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from omegaconf import OmegaConf
from onnx import TensorProto, helper

from tests.conftest import random_net
from tests.export.test_export import SIDE, Three, deployment
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.evaluation.entries import net_gmac, onnx_facts
from u2slim.export.run import export
from u2slim.models import Net, normalise
from u2slim.runtime import ONNX_RUNTIMES, Runner, net_runner, onnx_runner
from u2slim.runtime.batch_axis import MAX_BATCH, _scale, batch_setting, fix_batch
from u2slim.runtime.onnx_reader import read_graph
from u2slim.runtime.onnx_writer import write_onnx

KINDS = {"3": 3, "open": None}


@pytest.fixture(scope="module")
def net() -> Net:
    net = random_net()
    with torch.no_grad():
        net.fuse.weight *= 100  # or all masks were nearly one gray
    return net


@pytest.fixture(scope="module")
def files(net, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("batches")
    paths = {kind: folder / f"{kind}.onnx" for kind in KINDS}
    write_onnx(net, SIDE, paths["open"], batch=None)
    model = onnx.load(paths["open"])
    fix_batch(model, 3)
    onnx.save(model, paths["3"])
    return paths


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Five of different sizes and brightness."""
    return [render(0, index)[0][: 200 - 20 * index] // (1 + index % 3) for index in range(5)]


@pytest.fixture(scope="module")
def expected(net, photos) -> list[np.ndarray]:
    alone = net_runner(net, SIDE)
    return [alone.small_mask(photo) for photo in photos]


def counted(runner: Runner) -> list[int]:
    """The photos of each call that it will get."""
    calls, run = [], runner.run
    runner.run = lambda blob_B3HW: calls.append(len(blob_B3HW)) or run(blob_B3HW)
    return calls


def assert_same(made: Sequence[np.ndarray], wanted: Sequence[np.ndarray], atol: float = 1e-4) -> None:
    assert len(made) == len(wanted)
    for mask, true in zip(made, wanted, strict=True):
        np.testing.assert_allclose(mask, true, atol=atol)


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_photo_is_answered_as_torch_answers_it_alone(files, photos, expected, kind, runtime):
    assert min(np.abs(a - b).max() for n, a in enumerate(expected) for b in expected[:n]) > 0.05
    runner = onnx_runner(files[kind], runtime)
    calls = counted(runner)
    for count in (1, 2, 5):
        assert_same(runner.small_masks(photos[:count]), expected[:count])
        assert calls == ([count] if kind == "open" else ceil(count / 3) * [3])
        calls.clear()
    assert_same([runner.small_mask(photos[1])], expected[1:2])
    assert runner(photos[1]).shape == photos[1].shape[:2]
    assert calls == ([1, 1] if kind == "open" else [3, 3])
    calls.clear()
    assert_same(runner.small_masks(photos * 2 + photos[:1]), expected * 2 + expected[:1])
    assert calls == ([8, 3] if kind == "open" else [3, 3, 3, 3])
    assert runner.small_masks([]) == []


def test_torch_takes_several_photos_at_once_too(net, photos, expected):
    assert_same(net_runner(net, SIDE).small_masks(photos), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_not_finite_answers_of_one_photo_are_named(files, photos, kind):
    runner = onnx_runner(files[kind], "onnxruntime")
    run = runner.run
    runner.run = lambda blob_B3HW: np.where(np.arange(len(blob_B3HW))[:, None, None, None] == 1, np.nan, run(blob_B3HW))
    with pytest.raises(UserError, match="NaN or infinite values on onnxruntime"):
        runner.small_masks(photos)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_says_how_many_photos_it_takes(net, files, kind):
    model = onnx.load(files[kind])
    assert {item.key: item.value for item in model.metadata_props}["u2slim.batch"] == kind
    axes = [value.type.tensor_type.shape.dim[0] for value in (*model.graph.input, *model.graph.output)]
    assert [axis.dim_value or axis.dim_param for axis in axes] == [KINDS[kind] or "batch"] * 2
    assert read_graph(files[kind]).batch == KINDS[kind]
    assert not {"Shape", "Expand"} & {node.op_type for node in model.graph.node}, "or OpenCV 4 did not load it"
    assert onnx_facts(files[kind]).gmac == pytest.approx(net_gmac(net, SIDE), rel=1e-3), "of one photo"


class Apart(Three):
    """The same, each photo by itself; `Three` takes a mean over all that there are."""

    def level(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.amax((2, 3), keepdim=True)


class Mixed(Apart):
    """The same with the largest of all photos."""

    def level(self, logits: torch.Tensor) -> torch.Tensor:
        return super().level(logits).amax(0, keepdim=True)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "packed", "fp16_compute", "int8"])
@pytest.mark.parametrize("batch", [3, None])
def test_all_precisions_are_proved_on_several_photos_at_once(tmp_path, photos, batch, precision):
    path = tmp_path / "net.onnx"
    rows = deployment(Apart(), batch=batch).write(path, "external", precision)
    bound = 1e-4 if precision == "fp32" else 0.1
    assert all(row.error or row.largest < bound for row in rows)
    assert read_graph(path).batch == batch and read_graph(path).precision == precision
    alone, runner = net_runner(Apart(), SIDE), onnx_runner(path, "onnxruntime")
    assert_same(runner.small_masks(photos), [alone.small_mask(photo) for photo in photos], atol=bound)


def test_a_graph_that_mixes_photos_leaves_no_file(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    with pytest.raises(UserError, match="differs from torch by up to"):
        deployment(Mixed(), batch=2).write(path, "embedded", "fp32")
    deployment(Apart(), batch=2).write(path, "embedded", "fp32")
    own = normalise._maximum
    monkeypatch.setattr(normalise, "_maximum", lambda x_BCHW: own(x_BCHW).amax(0, keepdim=True))  # of all photos
    with pytest.raises(UserError, match="differs from torch by up to"):
        deployment(Apart(), batch=2).write(path, "embedded", "fp32")
    assert not path.exists()


def test_a_net_that_computes_with_the_number_of_photos_is_refused(tmp_path):
    class Counting(Apart):
        def forward(self, x: torch.Tensor, upsampled: bool = True) -> list[torch.Tensor]:
            return [logits * len(x) for logits in super().forward(x)]

    with pytest.raises(UserError, match="three computes with the number of photos: leave out export.batch"):
        write_onnx(Counting(), SIDE, tmp_path / "net.onnx", batch=2)


@pytest.mark.parametrize("value", [0, -1, "many", 2.5, True, None, MAX_BATCH + 1])
def test_a_wrong_number_is_refused_before_anything_is_done(value, tmp_path):
    with pytest.raises(
        UserError, match=rf"export.batch={value}: give the number of photos at once, 1 to 1024, or `open`"
    ):
        export(OmegaConf.create({"export": {"batch": value}}), tmp_path)


def test_too_many_pixels_at_once_are_refused(tmp_path):
    write_onnx(Apart(), SIDE, tmp_path / "net.onnx", batch=4)
    assert read_graph(tmp_path / "net.onnx").batch == 4
    assert [batch_setting(value) for value in (1, 8, "open")] == [1, 8, None]
    with pytest.raises(UserError, match="export.batch=512: photos of 320x320 would be more .* 163 is the most"):
        write_onnx(Three(), 320, Path("nowhere.onnx"), batch=512)


def test_files_of_other_projects_may_have_a_batch_axis(tmp_path, photos):
    def file(axis: int | str) -> Path:
        path = tmp_path / f"{axis}.onnx"
        nodes = [
            helper.make_node("ReduceMean", ["x", "one"], ["gray"]),
            helper.make_node("Sigmoid", ["gray"], ["y"]),
        ]
        image, mask = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [axis, channels, 320, 320])
            for name, channels in (("x", 3), ("y", 1))
        )
        one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
        graph = helper.make_graph(nodes, "theirs", [image], [mask], [one])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
        return path

    assert [read_graph(file(axis)).batch for axis in ("any", 1, 4)] == [1, 1, 4]
    single, four = (onnx_runner(file(axis), "onnxruntime") for axis in ("any", 4))
    calls = counted(single), counted(four)
    assert_same(four.small_masks(photos), single.small_masks(photos), atol=1e-6)
    assert calls == ([1] * 5, [4, 4])
    with pytest.raises(UserError, match="takes 5000 photos at once, more than 1024"):
        read_graph(file(5000))
    with pytest.raises(UserError, match="asks for 1000 images of 320x320 .* use a net for fewer or smaller images"):
        read_graph(file(1000))


def test_what_is_scaled_reaches_its_size_however_a_runtime_rounds():
    for before in range(1, 50):
        for after in range(1, 200):
            scale = _scale(before, after)
            assert int(np.float32(before) * scale) == int(before * float(scale)) == after
