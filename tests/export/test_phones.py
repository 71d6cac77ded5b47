"""Files for phones: proved or not there, read back by what they say of themselves, run behind the same interface.

What needs an extra is skipped without it; docs/guides/phones.md says how these run.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn.functional import interpolate

import u2slim
from tests.conftest import REPO, write_set
from tests.export.test_phone_operators import ONNX2TF, needs
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.export.calibration import Gate
from u2slim.export.deploy import Deployment
from u2slim.export.run import export, files, kinds_of_files
from u2slim.export.targets import TARGETS
from u2slim.images.preprocess import ISNET_PREPROCESS
from u2slim.models import Net
from u2slim.runtime.phone_files import net_bytes, read_ncnn_files
from u2slim.zoo.open import open_net

SIDE = 64


class Small(Net):
    """What our nets are made of, in a few layers; its mask is where a photo is bright."""

    name = "small"
    outputs = ("mask",)

    def __init__(self, wide: float = 1.0):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.last = nn.Conv2d(16, 1, 1)
        with torch.no_grad():
            self.first.weight[4] *= wide
            self.last.weight[:, 4] /= wide
            self.last.weight *= 8
            self.last.bias -= 1

    def forward(self, x: torch.Tensor, upsampled: bool = True) -> list[torch.Tensor]:
        first = self.first(x).relu()
        middle = self.middle(nn.functional.max_pool2d(first, 2, 2, ceil_mode=True)).relu()
        large = interpolate(middle, first.shape[2:], mode="bilinear", align_corners=False)
        return [self.last(torch.cat([first, large], 1))]


def deployment(net: Net, **settings) -> Deployment:
    images = [render(0, index)[0] for index in range(3)]
    gate = Gate([], images, settings.pop("max_loss", 0.01))
    return Deployment(net.eval(), SIDE, images=images, photos=images, gate=gate, onnx2tf=ONNX2TF, **settings)


@pytest.mark.parametrize("preprocess", ["embedded", "external"])
@pytest.mark.parametrize("target", ["ncnn", "litert"])
def test_a_file_says_what_it_takes_and_makes_torchs_masks(target: str, preprocess: str, tmp_path: Path):
    needs(target)
    path = tmp_path / f"net{TARGETS[target].ending}"
    small = Small()
    rows = deployment(small).write(path, preprocess, "fp32", target)
    assert [row.runtime for row in rows] == [target] and rows[0].largest < 1e-4 and rows[0].worst_iou > 0.99
    assert rows[0].bytes == net_bytes(path)
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"
    photo = render(0, 7)[0]
    expected = u2slim.runtime.net_runner(small, SIDE)(photo)
    np.testing.assert_allclose(u2slim.Segmenter(path, stretch=True)(photo), expected, atol=1e-3)
    np.testing.assert_allclose(u2slim.Segmenter(path, target, threads=1)(photo), expected, atol=1e-3)
    other = {"ncnn": "litert", "litert": "opencv"}[target]
    with pytest.raises(UserError, match=f"cannot run .* it runs in {target}|needs"):
        u2slim.Segmenter(path, other)
    with pytest.raises(UserError, match="runs at 64x64 pixels and no other size"):
        u2slim.Segmenter(path, size=96)
    with pytest.raises(UserError, match="which torch cannot read"):
        open_net(path).net()
    with pytest.raises(UserError, match="differs from torch"):
        deployment(small, tolerance=1e-12).write(path, preprocess, "fp32", target)
    assert not list(tmp_path.iterdir()), "not even the older one"


@pytest.mark.parametrize("target", ["ncnn", "litert"])
def test_a_net_whose_first_layer_works_in_place_leaves_the_photo_alone(target: str, tmp_path: Path):
    """As IS-Net's, which divides all photos by 255. ncnn divided the photo itself, and crashed."""
    needs(target)
    path = tmp_path / f"net{TARGETS[target].ending}"
    small = Small()
    small.preprocess = ISNET_PREPROCESS
    rows = deployment(small).write(path, "embedded", "fp32", target)
    assert rows[0].largest < 1e-4
    runner = open_net(path).runner(target)
    image = np.full((SIDE, SIDE, 3), 200, np.uint8)
    np.testing.assert_array_equal(runner(image), runner(image))
    assert (image == 200).all()


@pytest.mark.parametrize("target", ["ncnn", "litert"])
def test_8_bits_are_gated_and_layers_that_move_the_mask_stay_in_float(target: str, tmp_path: Path, caplog):
    needs(target)
    caplog.set_level("INFO")
    path, whole = tmp_path / f"net{TARGETS[target].ending}", tmp_path / f"whole{TARGETS[target].ending}"
    rows = deployment(Small()).write(path, "external", "int8", target)
    assert rows[0].mean < 0.03 and rows[0].iou > 0.9 and "stay in float" not in caplog.text
    deployment(Small()).write(whole, "external", "fp32", target)
    if target == "ncnn":
        weights = sum(conv.weight.numel() for conv in (Small().first, Small().middle, Small().last))
        saved = whole.with_suffix(".bin").stat().st_size - path.with_suffix(".bin").stat().st_size
        scales = 4 * (8 + 8 + 1 + 3)
        assert 3 * weights - 12 <= saved + scales <= 3 * weights
    caplog.clear()
    rows = deployment(Small(), max_loss=-1).write(path, "external", "int8", target)
    assert rows[0].largest < 0.02, "all layers in float"
    assert "3 of 3 layers in float" in caplog.text and "more than export.max_loss allows" in caplog.text


def test_what_does_not_belong_together_is_refused_before_ncnn_sees_it(tmp_path: Path):
    needs("ncnn")
    path = tmp_path / "net.param"
    deployment(Small()).write(path, "external", "fp16", "ncnn")
    layers, weights, metadata = read_ncnn_files(path)
    assert metadata["u2slim.precision"] == "fp16" and metadata["u2slim.size"] == "64"
    assert " image" in layers and " mask" in layers
    binary, entries = path.with_suffix(".bin"), path.with_suffix(".json")
    binary.write_bytes(weights[:-8])
    with pytest.raises(UserError, match="do not belong to net.json"):
        open_net(path).runner()
    binary.unlink()
    with pytest.raises(UserError, match=r"without net\.bin beside it"):
        open_net(path).runner()
    binary.write_bytes(weights)
    entries.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        open_net(path).runner()
    entries.write_text(json.dumps({}))
    with pytest.raises(UserError, match="is damaged"):
        open_net(path).runner()


def test_a_damaged_file_for_litert_is_refused(tmp_path: Path):
    needs("litert")
    path = tmp_path / "net.tflite"
    deployment(Small()).write(path, "embedded", "fp32", "litert")
    data = path.read_bytes()
    for broken in (b"", b"hello", data[:100]):
        path.write_bytes(broken)
        with pytest.raises(UserError):
            open_net(path).runner()


def test_core_ml_is_named_unproved_and_a_black_image_stays_finite(tmp_path: Path):
    needs("coreml")
    path = tmp_path / "net.unproved.mlpackage"
    for precision, largest in (("fp32", 1e-4), ("fp16", 0.02), ("int8", 0.1)):
        rows = deployment(Small()).write(path, "embedded", precision, "coreml")
        assert rows[0].runtime == "MIL by torch" and rows[0].largest < largest
        program = TARGETS["coreml"].runner(path).program
        assert np.isfinite(program(np.zeros((1, 3, SIDE, SIDE), np.float32))).all()
        assert program.metadata["u2slim.precision"] == precision
        kind = program.spec.description.input[0].type.WhichOneof("Type")
        assert kind == "imageType"
    used = [op.inputs["y"].val for op in program.function.operations if op.op_type == "add" and op.inputs["y"].val]
    assert not [value for value in used if 0 < abs(float(value)) < 2**-14], "chips take it for 0"


def test_a_net_of_another_kind_is_told_what_to_do():
    for name in ("lite-half", "u2netp"):
        for runtime in ("ncnn", "litert"):
            with pytest.raises(UserError, match=f"export.target={runtime}|needs"):
                open_net(name).runner(runtime)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["export.target=tvm"], "export.target=tvm is not known; choose one of: onnx, ncnn, litert, coreml"),
        (["export.target=ncnn", "export.precision=packed"], "ncnn has no packed, only fp32, fp16, int8"),
        (["export.target=litert", "export.output=a.onnx"], "name a file for litert"),
        (["export.target=ncnn", "export.dynamic=true"], "one size for one photo, with one output: leave out"),
        (["export.precision=[fp32,packed]", "export.output=a.onnx"], "a.onnx is one file for 2; give a folder"),
    ],
)
def test_settings_that_do_not_go_together_are_named(overrides, reason, tmp_path):
    settings = OmegaConf.load(REPO / "conf" / "export.yaml").export
    settings.merge_with_dotlist([text.removeprefix("export.") for text in overrides])
    with pytest.raises(UserError, match=reason):
        kinds_of_files(settings)


def test_what_is_not_installed_is_refused_before_the_net_is_made(tmp_path):
    settings = OmegaConf.load(REPO / "conf" / "export.yaml").export
    settings.target, settings.onnx2tf = "litert", "no-such-program"
    with pytest.raises(UserError, match="export.target=litert needs no-such-program: with Python 3.12"):
        export(OmegaConf.create({"export": settings}), tmp_path)  # which says nothing of a net


def test_several_targets_have_a_file_each_and_leave_out_what_one_has_not(tmp_path, caplog):
    settings = OmegaConf.load(REPO / "conf" / "export.yaml").export
    settings.target, settings.precision = ["onnx", "ncnn", "coreml"], ["fp32", "packed"]
    paths = files(settings, kinds_of_files(settings), "small", tmp_path)
    assert [path.name for path in paths.values()] == [
        "small-embedded.onnx",
        "small-embedded-packed.onnx",
        "small-embedded.param",
        "small-embedded.unproved.mlpackage",
    ]
    assert "ncnn has no packed" in caplog.text and "coreml has no packed" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ncnn", "litert", "coreml"])
def test_a_packed_net_goes_on_to_every_phone(target, tmp_path):
    needs(target)
    net = open_net("lite-s").net()
    path = tmp_path / f"net{TARGETS[target].ending}"
    images = [render(0, 1)[0]]
    made = Deployment(net, 320, images, images, Gate([], images), onnx2tf=ONNX2TF)
    assert made.write(path, "embedded", "fp32", target)[0].largest < 1e-4


def test_the_table_of_phones_has_parity_and_scores_and_goes_on(tmp_path: Path):
    needs("ncnn")
    write_set(tmp_path / "ECSSD", "images", "ground_truth_mask", 5)
    write_set(tmp_path / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 2)
    command = [sys.executable, "-m", "benchmarks.phones", "--root", str(tmp_path), "--nets", "lite-dwsep"]
    command += ["--targets", "ncnn", "--precisions", "fp32", "fp16", "--folder", str(tmp_path / "out")]

    def rows() -> tuple[list[list[str]], str]:
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()], done.stderr

    (head, _, *first), said = rows()
    assert "lite-dwsep: ncnn in fp16" in said
    titles = "MB", "largest difference", "worst", "maxF or mIoU", "boundary IoU", "ms"
    sizes, largest, worst, scores, edges, times = ([row[head.index(title)] for row in first] for title in titles)
    assert [row[1:3] for row in first] == [["as it is", "opencv"], ["fp32", "ncnn"], ["fp16", "ncnn"]]
    assert largest[0] == worst[0] == "" and float(largest[1]) < 1e-4 < float(largest[2]) < 0.1
    assert float(sizes[2]) < 0.6 * float(sizes[1]) and worst[1] == "1.0000"
    assert len({*scores, *edges}) <= 4 and all(float(score) > 0 for score in scores)
    assert all(times)
    again, said = rows()
    assert "ncnn in fp16" not in said and again[2][head.index("maxF or mIoU")] == scores[0]
