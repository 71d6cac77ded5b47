"""Weights of 2 to 8 bits: found on their grids, as small as their bits, and the same net in every runtime."""

import subprocess
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tests.conftest import random_net
from tests.export.test_export import SIDE, Three, deployment
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.evaluation.entries import onnx_facts
from u2slim.export.packed import find_grid, store_packed
from u2slim.models import DepthwiseSeparableConv, Net
from u2slim.runtime import ONNX_RUNTIMES, onnx_runner
from u2slim.runtime.onnx_convolutions import read_convolutions
from u2slim.runtime.onnx_reader import read_graph
from u2slim.runtime.onnx_writer import convert, write_onnx
from u2slim.runtime.packed import widened
from u2slim.zoo import shipped

ALL_BITS = (3, 4, 5, 6, 7, 8, None)  # None: on no grid
OVERHEAD = 95  # bytes of a packed weight beside its numbers and scales: a node, two tensors, their names


def on_grids(net: Net, bits: Sequence[int | None]) -> Net:
    """Each convolution's weights rounded to whole numbers of so many bits, in turns, with a scale for each output."""
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        for conv, most in zip(convolutions, cycle(bits), strict=False):
            if most is not None:
                step_O111 = conv.weight.abs().amax((1, 2, 3), keepdim=True) / (2 ** (most - 1) - 1)
                conv.weight.copy_((conv.weight / step_O111).round() * step_O111)
    return net


@pytest.fixture(scope="module")
def net() -> Net:
    net = random_net(conv=DepthwiseSeparableConv)
    with torch.no_grad():
        net.fuse.weight *= 100  # or all masks were nearly one gray
    return on_grids(net, ALL_BITS)


@pytest.fixture(scope="module")
def files(net, tmp_path_factory) -> dict[str, Path]:
    """The net in float32, packed, and what becomes of the packed one before a runtime sees it."""
    folder = tmp_path_factory.mktemp("packed")
    paths = {kind: folder / f"{kind}.onnx" for kind in ("whole", "packed", "wide")}
    write_onnx(net, SIDE, paths["whole"])
    paths["packed"].write_bytes(paths["whole"].read_bytes())
    convert(paths["packed"], store_packed, "packed")
    paths["wide"].write_bytes(widened(paths["packed"].read_bytes()))
    return paths


def numbers(bits: int, shape: tuple[int, ...] = (6, 5, 3, 3)) -> np.ndarray:
    most = 2 ** (bits - 1) - 1
    code_OIKK = np.random.default_rng(bits).integers(-most, most + 1, shape)
    code_OIKK[:, 0, 0, 0] = most
    return code_OIKK


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_grid_is_found_whatever_the_scales_are(bits):
    code_OIKK = numbers(bits)
    code_OIKK[1] = 0
    code_OIKK[2] = np.sign(code_OIKK[2])  # fewer steps than the others
    scale_O111 = np.random.default_rng(9).uniform(1e-3, 9, (6, 1, 1, 1))
    grid = find_grid((code_OIKK * scale_O111).astype(np.float32))
    assert grid is not None and grid.bits == bits
    np.testing.assert_array_equal(grid.code_OK, code_OIKK.reshape(6, -1))
    np.testing.assert_allclose(np.delete(grid.scale_O, 1), np.delete(scale_O111, 1), rtol=1e-6)
    assert grid.scale_O[1] == 0
    assert grid.planes().shape == (bits, -(-code_OIKK.size // 8)), "270 numbers of so many bits, without waste"


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_the_smallest_and_largest_scales_are_kept(size):
    weight_OIKK = (numbers(4) * size).astype(np.float32)
    grid = find_grid(weight_OIKK)
    assert grid is not None
    made = grid.code_OK * grid.scale_O[:, None]
    np.testing.assert_allclose(made, weight_OIKK.reshape(6, -1), rtol=1e-6)


def test_what_lies_on_no_grid_has_none():
    weight_OIKK = numbers(8).astype(np.float32)
    assert find_grid(weight_OIKK) is not None
    off = weight_OIKK.copy()
    off[3, 4, 2, 2] += 0.01
    assert find_grid(off) is None
    off[3, 4, 2, 2] = np.nan
    assert find_grid(off) is None
    assert find_grid(np.random.default_rng(0).normal(size=(4, 4, 3, 3))) is None
    most_OIKK = numbers(8) * 2 + 1
    assert np.abs(most_OIKK).max() == 255 and find_grid(most_OIKK) is None, "9 bits"


def test_every_convolution_comes_back(files, net):
    """Also into torch, by the names of its modules."""
    found = {kind: read_convolutions(path).convolutions for kind, path in files.items()}
    kinds = dict(zip([n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)], cycle(ALL_BITS), strict=False))
    assert [one.name for one in found["packed"]] == [one.name for one in found["whole"]]
    half = 0
    for whole, packed, wide in zip(found["whole"], found["packed"], found["wide"], strict=True):
        np.testing.assert_array_equal(packed.weight_OIKK, wide.weight_OIKK)
        np.testing.assert_array_equal(packed.bias_O, whole.bias_O)
        settings = (packed.stride, packed.dilation)
        assert settings == (whole.stride, whole.dilation)
        if np.allclose(packed.weight_OIKK, whole.weight_OIKK, rtol=1e-6, atol=0):
            continue
        half += 1
        fewest = whole.weight_OIKK.size <= 4 * len(whole.weight_OIKK) + 32  # bytes in float16 or on a grid of 8 bits
        assert whole.weight_OIKK.size >= 16 and (kinds[whole.name] is None or fewest)
        np.testing.assert_array_equal(packed.weight_OIKK, whole.weight_OIKK.astype(np.float16))
    assert half > 10
    assert onnx_facts(files["packed"]).params == onnx_facts(files["whole"]).params


def test_weights_take_their_bits_and_little_more(files):
    graph = onnx.load(files["packed"]).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Unpack"]
    seen, saved = set(), 0
    for node in nodes:
        planes, scales = (stored[name] for name in node.input)
        shape = node.attribute[0].ints
        bits, size = planes.dims[0], np.prod(shape)
        assert len(planes.raw_data) == bits * np.ceil(size / 8)
        assert len(scales.raw_data) == 4 * shape[0]
        numbers = len(planes.raw_data) + len(scales.raw_data)
        assert sum(part.ByteSize() + 3 for part in (node, planes, scales)) - numbers <= OVERHEAD
        seen.add(bits)
        saved += 4 * size - numbers - OVERHEAD
    assert seen == {2, 3, 4, 5, 6, 7, 8} and len(nodes) > 80
    casts = [stored[node.input[0]] for node in graph.node if node.op_type == "Cast"]
    saved += sum(len(tensor.raw_data) - OVERHEAD for tensor in casts)
    assert files["packed"].stat().st_size < files["whole"].stat().st_size - saved


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_a_runtime_makes_the_masks_of_the_widened_file(files, runtime):
    pytest.importorskip({"opencv": "cv2"}.get(runtime, runtime))
    packed, wide, whole = (onnx_runner(files[kind], runtime) for kind in ("packed", "wide", "whole"))
    for index in range(2):
        photo = render(0, index)[0]
        mask = packed.small_mask(photo)
        np.testing.assert_array_equal(mask, wide.small_mask(photo))
        assert np.ptp(mask) > 0.1 and np.abs(mask - whole.small_mask(photo)).mean() < 0.01


def test_onnxruntime_runs_the_file_unaided(files):
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, SIDE, SIDE)).astype(np.float32)
    masks = [onnxruntime.InferenceSession(files[kind]).run(None, {"image": image})[0] for kind in ("packed", "wide")]
    np.testing.assert_array_equal(*masks)
    assert "Unpack" not in {node.op_type for node in onnx.load(files["wide"]).graph.node}
    assert not onnx.load(files["wide"]).functions


@pytest.mark.parametrize("preprocess", ["embedded", "external"])
def test_an_export_is_proved_in_every_runtime(tmp_path, preprocess):
    path = tmp_path / "net.onnx"
    rows = deployment(on_grids(Three(), [6]), dynamic=True).write(path, preprocess, "packed")
    assert len(rows) > 0 and not any(row.error for row in rows)
    assert min(row.iou for row in rows) >= 0.995
    assert read_graph(path).precision == "packed"
    assert read_graph(path, size=96).size == (96, 96)


def test_a_shipped_net_may_be_packed_and_needs_no_onnx(files, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "NETS", tmp_path)
    (tmp_path / "small.onnx").write_bytes(files["packed"].read_bytes())
    shell = subprocess.run(["sha256sum", "small.onnx"], cwd=tmp_path, capture_output=True, text=True, check=True)
    (tmp_path / "SHA256SUMS").write_text(shell.stdout)
    graph = shipped.Shipped("small", "for this test", (0, 0), precision="packed", side=SIDE).graph()
    assert graph is not None and graph.data == files["wide"].read_bytes()
    script = "import sys, u2slim.runtime.packed as p; p.widened(open(sys.argv[1], 'rb').read()); "
    script += "sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script, files["packed"]]).returncode == 0


def first_node(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == "Unpack")


def first(model: onnx.ModelProto, part: int) -> onnx.TensorProto:
    """The planes or the scales of the first weight."""
    name = first_node(model).input[part]
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def set_values(part: int, values: np.ndarray):
    def change(model: onnx.ModelProto) -> None:
        tensor = first(model, part)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return change


def set_shape(*shape: int):
    def change(model: onnx.ModelProto) -> None:
        first_node(model).attribute[0].ints[:] = shape

    return change


ROWS = 64  # of the first weight
DAMAGES = {
    "few planes": (set_values(0, np.zeros((1, 4), np.uint8)), r"planes of shape \(1, 4\), not 2 to 8"),
    "many planes": (set_values(0, np.zeros((9, 4), np.uint8)), r"planes of shape \(9, 4\), not 2 to 8"),
    "planes of another type": (set_values(0, np.zeros((3, 4), np.int8)), "other planes or scales"),
    "short planes": (set_values(0, np.zeros((3, 3), np.uint8)), "other planes or scales"),
    "cut planes": (lambda model: setattr(first(model, 0), "raw_data", b"1"), "other planes or scales"),
    "few scales": (set_values(1, np.float16([1, 2])), "other planes or scales"),
    "huge scales": (set_values(1, np.full(ROWS, np.inf, np.float32)), "NaN or infinite scales"),
    "a huge shape": (set_shape(3, 1, 3, 2**62), "impossible shape"),
    "a large shape": (set_shape(2**28, 2**28, 1, 1), "larger than 2 GB"),
    "no shape": (lambda model: first_node(model).ClearField("attribute"), "impossible shape"),
    "no scales": (lambda model: first_node(model).input.pop(), "lacks its planes or its scales"),
    "computed planes": (lambda model: first_node(model).input.__setitem__(0, "image"), "lacks its planes"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_weight_is_named(files, tmp_path, damage):
    change, reason = DAMAGES[damage]
    path = tmp_path / "net.onnx"
    model = onnx.load(files["packed"])
    change(model)
    onnx.save(model, path)
    for read in (read_graph, read_convolutions):
        with pytest.raises(UserError, match=f"cannot be unpacked: .*{reason}"):
            read(path)


def test_a_broken_file_is_an_error_in_a_sentence(files, tmp_path):
    data, path = files["packed"].read_bytes(), tmp_path / "broken.onnx"
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(60):
        broken = bytearray(data[: rng.integers(len(data))] if trial % 2 else data)
        for at in rng.integers(len(broken), size=20):
            broken[at] = rng.integers(256)
        path.write_bytes(broken)
        try:
            read_graph(path)
        except UserError:
            refused += 1
    assert refused > 30
