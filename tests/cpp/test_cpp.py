"""The C++ program makes the masks that Python makes, and names what it cannot read and why."""

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.conftest import REPO, random_net, run, write_set
from tests.onnx_files import write_as_published, write_class_net, write_plain_net
from u2slim.cutout.batch import Outcome, cut_all
from u2slim.cutout.cutter import Cutter
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.export.half import compute_in_half
from u2slim.images.photos import find_photos
from u2slim.images.preprocess import Preprocess
from u2slim.models import build_net
from u2slim.models.normalise import Normalise
from u2slim.runtime import Runner, net_runner, onnx_runner
from u2slim.runtime.class_masks import ClassMasks
from u2slim.runtime.onnx_writer import write_onnx
from u2slim.zoo import SHIPPED, open_net

sys.path.insert(0, str(REPO / "cpp" / "test"))
from seeds import narrowed, small_net

CONFIGS = ("usr/lib/*/cmake/opencv[45]", "usr/lib*/cmake/opencv[45]", "usr/local/lib*/cmake/opencv[45]")


def shell(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def build(tmp_path_factory) -> Path:
    """The folder that the program is built in; `make cpp-test` has done so already."""
    if "U2SLIM_CPP" in os.environ:
        return Path(os.environ["U2SLIM_CPP"])
    found = any(any(Path("/").glob(f"{config}/OpenCVConfig.cmake")) for config in CONFIGS) or "OpenCV_DIR" in os.environ
    if not (found and shutil.which("cmake") and shutil.which("c++")):
        pytest.skip("cmake, a C++ compiler or OpenCV's headers are absent: apt install cmake g++ libopencv-dev")
    folder = tmp_path_factory.getbasetemp().parent / f"cpp-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:  # where tests run in several processes, the first one builds
        fcntl.flock(lock, fcntl.LOCK_EX)
        shell("cmake", "-S", REPO / "cpp", "-B", folder)
        shell("cmake", "--build", folder, "--parallel", str(os.cpu_count()))
    return folder


@pytest.fixture
def program(build):
    """Calls the program: its exit status, what it prints and what it reports."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        done = subprocess.run([build / "u2slim", *map(str, words)], capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """The smaller shipped net, for ImageNet-normalised input."""
    path = tmp_path_factory.mktemp("nets") / "external.onnx"
    net = open_net("lite-dwsep").net()
    write_onnx(net, net.preprocess.size, path, "external")
    return path


@pytest.fixture
def small(tmp_path) -> Path:
    onnx.save(small_net("external"), tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


@pytest.mark.parametrize("kind", ["ICNet", "FCN"])
def test_classes_and_their_colours_are_pythons(program, tmp_path, kind):
    torch.manual_seed(0)
    net = build_net({"_target_": f"u2slim.models.{kind}", "classes": 3, "width": 0.1, "backbone": "resnet18"}).eval()
    net.labels = {"names": ["a", "b", "c"], "palette": [[250, 0, 10], [0, 99, 0], [7, 8, 9]]}
    with torch.no_grad():  # or else one class may win everywhere
        image = torch.from_numpy(cv2.resize(render(5, 0)[0], (96, 64))).permute(2, 0, 1)[None]
        head = net.classify if kind == "ICNet" else net.scores[0]
        head.bias -= net(Normalise()(image))[0].mean((0, 2, 3))
    write_onnx(net, [64, 96], tmp_path / "net.onnx")
    (tmp_path / "in").mkdir()
    for index in range(2):
        Image.fromarray(render(5, index)[0]).save(tmp_path / "in" / f"{index}.png")
    runner = onnx_runner(tmp_path / "net.onnx", "onnxruntime")
    photos = find_photos(tmp_path / "in")
    assert cut_all(Cutter(runner, tmp_path / "py"), "in", photos).done == 2
    golden = tmp_path / "py/classes"
    options = ("--net", tmp_path / "net.onnx", "-o", tmp_path / "out", "--compare", golden)
    status, printed, failed = program(tmp_path / "in", *options)
    assert status == 0, printed + failed
    same = np.asarray(Image.open(tmp_path / "out/classes/0.png")) == np.asarray(Image.open(golden / "0.png"))
    overlays = [np.asarray(Image.open(tmp_path / home / "overlays/0.png"))[same] for home in ("py", "out")]
    np.testing.assert_array_equal(*overlays)
    assert len(np.unique(np.asarray(Image.open(golden / "0.png")))) > 1, "several classes are compared"
    options = ("--net", tmp_path / "net.onnx", "-o", tmp_path / "only")
    assert program(tmp_path / "in", *options, "--mask", "only")[0] == 0
    assert [path.name for path in (tmp_path / "only").iterdir()] == ["classes"]
    for option in (["--largest"], ["--threshold", ".5"]):
        status, _, failed = program(tmp_path / "in", *options, *option)
        assert status == 2 and "this net tells classes apart" in failed

    model = onnx.load(tmp_path / "net.onnx")
    [entry] = [item for item in model.metadata_props if item.key == "u2slim.palette"]
    entry.value = "#000000"
    onnx.save(model, tmp_path / "odd.onnx")
    status, _, failed = program(tmp_path / "in", "--net", tmp_path / "odd.onnx", "-o", tmp_path / "odd")
    assert status == 2 and "another number of classes than of colours" in failed


def test_masks_of_chosen_classes_are_pythons(program, tmp_path):
    write_class_net(tmp_path / "net.onnx", 64, 96)
    (tmp_path / "in").mkdir()
    for index in range(2):
        Image.fromarray(render(5, index)[0]).save(tmp_path / "in" / f"{index}.png")
    words = ("--net", tmp_path / "net.onnx", "-o", tmp_path / "out")
    runner = onnx_runner(tmp_path / "net.onnx", "onnxruntime")
    for names in (["red"], ["blue", "traffic light"]):
        python = tmp_path / names[0]
        assert cut_all(Cutter(ClassMasks(runner, names), python), "in", find_photos(tmp_path / "in")).done == 2
        chosen = ("--class", f" {', '.join(names)}")
        status, printed, failed = program(tmp_path / "in", *words, *chosen, "--compare", python / "masks")
        assert status == 0, printed + failed
        assert len(np.unique(np.asarray(Image.open(python / "masks/0.png")))) > 50
        for index in range(2):
            assert agree(tmp_path / f"out/cutouts/{index}.png", python / f"cutouts/{index}.png")
    status, _, failed = program(tmp_path / "in", *words, *chosen, "--largest", "--threshold", ".5", "--no-stretch")
    assert status == 0 and not (tmp_path / "out/classes").exists(), failed
    assert set(np.unique(np.asarray(Image.open(tmp_path / "out/masks/0.png")))) == {0, 255}
    write_plain_net(tmp_path / "mask.onnx", 64, 96)
    for net, names in ((tmp_path / "net.onnx", ["red", "car"]), (tmp_path / "mask.onnx", ["car", "red"])):
        with pytest.raises(UserError) as refused:
            ClassMasks(onnx_runner(net, "onnxruntime"), names)
        status, _, failed = program(tmp_path / "in", "--net", net, "-o", tmp_path / "no", "--class", ",".join(names))
        assert (status, failed) == (2, f"{refused.value}\n")
    status, _, failed = program(tmp_path / "in", *words, "--class", " ,")
    assert status == 2 and "--class takes the names of classes" in failed


def write_kinds(folder: Path) -> None:
    """One photo in the ways that people have photos."""
    (folder / "deep").mkdir(parents=True)
    pixels, mask = render(7, 3)
    photo, turned = Image.fromarray(pixels), Image.Exif()
    turned[0x0112] = 6
    clear = photo.copy()
    clear.putalpha(Image.fromarray(255 - mask // 3))
    photo.save(folder / "same.jpg")
    photo.save(folder / "same.png")
    Image.fromarray(render(7, 4)[0]).save(folder / "deep" / "UPPER.JPEG")
    Image.fromarray(render(7, 5)[0]).save(folder / "turned.jpg", exif=turned)
    photo.convert("L").save(folder / "gray.tif", compression="tiff_lzw")
    clear.save(folder / "clear.png", exif=turned)
    clear.save(folder / "clear.webp", lossless=True)
    photo.quantize(32).save(folder / "palette.png", transparency=3)
    Image.fromarray(pixels[..., 1].astype(np.uint16) * 257 - 3).save(folder / "deep.png")
    cv2.imwrite(str(folder / "deep.tif"), pixels.astype(np.uint16) * 251)
    photo.save(folder / "plain.bmp")
    Image.new("RGB", (1, 1), (200, 30, 60)).save(folder / "one.png")
    Image.new("RGB", (40, 30)).save(folder / "black.png")
    photo.resize((20000, 20)).save(folder / "wide.jpg")
    photo.save(folder / "old.jfif", "jpeg")
    photo.save(folder / "several.jpg", "MPO", save_all=True, append_images=[photo.resize((80, 60))])
    photo.convert("1").save(folder / "bits.png")
    clear.convert("LA").save(folder / "gray_clear.png")
    cv2.imwrite(str(folder / "deep_clear.png"), np.asarray(clear)[..., [2, 1, 0, 3]].astype(np.uint16) * 257)
    noise = np.random.default_rng(0).normal(0, 3, pixels.shape)
    Image.fromarray((180 + noise).clip(0, 255).astype(np.uint8)).save(folder / "wall.png")
    logo = np.full((*mask.shape, 4), 255, np.uint8)
    logo[..., 3] = mask
    Image.fromarray(logo).save(folder / "logo.png")


def cut_out(runner: Runner, source: Path, output: Path) -> Outcome:
    return cut_all(Cutter(runner, output), str(source), find_photos(source))


def agree(ours: Path, python: Path) -> bool:
    a, b = (np.asarray(Image.open(path)).astype(int) for path in (ours, python))
    return a.shape == b.shape and (abs(a - b) <= 1).mean() >= 0.999


def test_masks_and_cutouts_of_every_kind_of_photo_are_those_of_python(program, exported, tmp_path):
    write_kinds(tmp_path / "photos")
    outcome = cut_out(open_net("lite-dwsep").runner("torch"), tmp_path / "photos", tmp_path / "python")
    assert (outcome.done, outcome.failed) == (21, {}) and f"{tmp_path}/photos/wall.png" in outcome.empty
    arguments = (tmp_path / "photos", "--net", exported, "-o", tmp_path / "ours")
    status, out, err = program(*arguments, "--time", "--compare", tmp_path / "python" / "masks")
    assert status == 0 and "21 of 21 photos done with OpenCV" in out and "loaded: " in out, out + err
    written = sorted(path.relative_to(tmp_path / "python") for path in (tmp_path / "python").rglob("*.png"))
    assert len(written) == 42
    assert written == sorted(path.relative_to(tmp_path / "ours") for path in (tmp_path / "ours").rglob("*.*"))
    assert [str(path) for path in written if not agree(tmp_path / "ours" / path, tmp_path / "python" / path)] == []

    assert f"no subject in {tmp_path}/photos/wall.png" in err
    assert np.asarray(Image.open(tmp_path / "ours/masks/wall.png")).max() == 0

    # OpenCV turns inks into colours with another rounding, which the net passes on to the mask.
    Image.fromarray(render(7, 3)[0]).convert("CMYK").save(tmp_path / "cmyk.jpg")
    cut_out(open_net("lite-dwsep").runner("torch"), tmp_path / "cmyk.jpg", tmp_path / "python")
    assert program(tmp_path / "cmyk.jpg", *arguments[1:])[0] == 0
    pair = (np.asarray(Image.open(tmp_path / home / "cutouts/cmyk.png")).astype(int) for home in ("ours", "python"))
    difference = abs(np.subtract(*pair)).reshape(-1, 4)
    assert (difference[:, :3] <= 1).mean() >= 0.999 and (difference[:, 3] <= 5).mean() >= 0.999

    # The stretch is felt, and a comparison that fails says so. Results of an earlier run are no photos.
    status, out, err = program(
        tmp_path / "photos" / "gray.tif", *arguments[1:], "--no-stretch", "--compare", tmp_path / "python" / "masks"
    )
    assert status == 1 and "the mask differs from" in err
    status, out, _ = program(tmp_path / "ours", "--net", exported, "-o", tmp_path / "ours")
    assert status == 1 and "0 of 1 photo done" in out


def largest_part(mask: np.ndarray) -> np.ndarray:
    count, labels = cv2.connectedComponents((mask > 0).astype(np.uint8), connectivity=8)
    sizes = np.bincount(labels[mask >= 128], minlength=count)
    return np.where(labels == sizes.argmax(), mask, 0) if sizes.any() else mask


def test_the_largest_part_and_a_hard_mask_are_pythons_to_the_pixel(program, tmp_path):
    height, width = 45, 64
    write_plain_net(tmp_path / "net.onnx", height, width)
    generator = np.random.default_rng(0)
    masks = []
    for index in range(24):  # of a few large blots to many small ones, soft at their rims
        noise = cv2.GaussianBlur(generator.normal(size=(height, width)), (0, 0), 1 + index % 4)
        masks.append((noise / noise.std() * 150 + 60 - 10 * (index // 4)).clip(0, 255).astype(np.uint8))
    masks.append(np.minimum(masks[0], 127))  # nothing from 128 on
    masks.append(np.zeros_like(masks[0]))
    faint = np.zeros_like(masks[0])
    faint[:20], faint[30:35, 10:15], faint[40:, 50:] = 127, 128, 255  # large but faint; 25 pixels; 70 pixels
    touching = np.zeros_like(masks[0])
    touching[5:10, 5:10], touching[10:14, 10:14], touching[20:26, 20:26] = 255, 1, 200  # by a corner; 25 < 36 pixels
    equal = np.zeros_like(masks[0])
    equal[3:6, 40:43], equal[20:23, 4:7] = 200, 255
    masks += [faint, touching, equal]
    (tmp_path / "photos").mkdir()
    for index, mask in enumerate(masks):
        Image.fromarray(np.dstack([mask, mask // 2, 255 - mask])).save(tmp_path / "photos" / f"{index:02}.png")

    def made(*options: str) -> list[np.ndarray]:
        output = tmp_path / "-".join(("out", *options))
        words = ("--net", tmp_path / "net.onnx", "-o", output, "--no-stretch", *options)
        status, out, err = program(tmp_path / "photos", *words)
        assert status == 0, out + err
        found = [np.asarray(Image.open(path)) for path in sorted((output / "masks").iterdir())]
        if "only" not in options:
            cutouts = [np.asarray(Image.open(path)) for path in sorted((output / "cutouts").iterdir())]
            np.testing.assert_array_equal([cutout[..., 3] for cutout in cutouts], found)
        assert (output / "cutouts").exists() == ("only" not in options)
        return found

    np.testing.assert_array_equal(made(), masks)
    largest = [largest_part(mask) for mask in masks]
    assert sum((one != other).any() for one, other in zip(masks, largest, strict=True)) > 20
    np.testing.assert_array_equal(made("--largest", "--mask", "also"), largest)
    for threshold in ("0", "0.25", ".5", "0.6", "7e-1", "1"):
        hard = [np.where(mask >= float(threshold) * 255, 255, 0) for mask in masks]
        np.testing.assert_array_equal(made("--threshold", threshold, "--mask", "only"), hard)
    hard = [np.where(mask >= 0.1 * 255, 255, 0) for mask in largest]
    np.testing.assert_array_equal(made("--threshold=0.1", "--largest", "--mask", "only"), hard)


def test_a_net_by_name_is_looked_for_in_folders_of_nets(build, small, tmp_path):
    Image.fromarray(render(7, 0)[0]).save(tmp_path / "photo.png")
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    nets = tmp_path / "src/u2slim/nets"
    shutil.copy(build / "u2slim", home / "bin")

    def status(**variables: str) -> int:
        words = [home / "bin/u2slim", "photo.png", "--net", "tiny", "-o", "out", "--mask", "only"]
        return subprocess.run(words, cwd=tmp_path, env=os.environ | variables, capture_output=True).returncode

    assert status() == 2
    for folder in (home / "bin", home / "bin/nets", home / "nets", nets):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(small, folder / "tiny.onnx")
        assert status() == 0
        (folder / "tiny.onnx").unlink()
    shutil.copy(small, tmp_path / "tiny.onnx")
    assert status() == 2 and status(U2SLIM_NETS=str(tmp_path)) == 0
    (tmp_path / "tiny.onnx").rename(tmp_path / "tiny")
    assert status() == 0, "a file of that name comes first"
    shutil.copy(small, nets / "lite-two-thirds.onnx")
    words = [home / "bin/u2slim", tmp_path / "photo.png", "-o", tmp_path / "usual"]
    assert subprocess.run(words).returncode == 0 and (tmp_path / "usual/cutouts/photo.png").is_file()


@pytest.fixture
def as_in_onnxruntime(program, tmp_path):
    """Fails where the program's masks by a net are not those that onnxruntime makes by it, or by `other`."""
    (tmp_path / "photos").mkdir()
    for index, dark in ((0, 1), (6, 2)):
        Image.fromarray(render(7, index)[0] // dark).save(tmp_path / "photos" / f"{index}.png")

    def call(net: Path, other: Path | None = None) -> None:
        python, ours = tmp_path / "python" / net.stem, tmp_path / "ours" / net.stem
        cut_out(onnx_runner(other or net, "onnxruntime"), tmp_path / "photos", python)
        status, out, err = program(tmp_path / "photos", "--net", net, "-o", ours, "--compare", python / "masks")
        assert status == 0 and "2 of 2 photos done" in out, out + err

    return call


def in_float32(path: Path, output: Path) -> Path:
    """A file in 8 bits with its weights in float32 and nothing between the convolutions rounded."""
    model = onnx.load(path)
    graph, nodes, instead = model.graph, [], {}
    stored = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    for node in graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            whole, scale, zero = (stored[name] for name in node.input)
            shape = [-1, 1, 1, 1]
            values = (whole.astype(np.float32) - zero.astype(np.float32).reshape(shape)) * scale.reshape(shape)
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            instead[node.output[0]] = node.input[0]
        else:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, output)
    return output


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(net.name, marks=pytest.mark.slow if net.name == "isnet-s" else ())
        for net in SHIPPED.values()
        if net.ecssd is not None
    ],
)
def test_every_shipped_net(as_in_onnxruntime, tmp_path, name):
    """Those in 8 bits are computed in float32, which OpenCV 5 does rightly and OpenCV 4.6 at all."""
    path = SHIPPED[name].onnx
    if not name.endswith("int8"):
        as_in_onnxruntime(path)
        return
    as_in_onnxruntime(path, in_float32(path, tmp_path / "whole.onnx"))
    cut_out(onnx_runner(path, "onnxruntime"), tmp_path / "photos", tmp_path / "rounded")
    for mask in (tmp_path / "rounded/masks").iterdir():
        ours = np.asarray(Image.open(tmp_path / "ours" / path.stem / "masks" / mask.name)).astype(float)
        assert np.abs(ours - np.asarray(Image.open(mask))).mean() < 0.03 * 255, "export.py's bound for 8 bits"


def test_numbers_of_fewer_bits_in_every_way_that_a_file_may_have_them(as_in_onnxruntime, exported, tmp_path):
    onnx.save(narrowed(small_net("external"), "half"), tmp_path / "half.onnx")
    as_in_onnxruntime(tmp_path / "half.onnx")
    onnx.save(narrowed(small_net("external"), "int8"), tmp_path / "int8.onnx")
    onnx.save(narrowed(small_net("external"), "int8", rounded=False), tmp_path / "unrounded.onnx")
    as_in_onnxruntime(tmp_path / "int8.onnx", tmp_path / "unrounded.onnx")
    onnx.save(narrowed(small_net("external"), "packed"), tmp_path / "packed.onnx")
    as_in_onnxruntime(tmp_path / "packed.onnx")
    blob = np.random.default_rng(0).normal(size=(1, 3, 256, 256)).astype(np.float32)
    compute_in_half(exported, tmp_path / "compute.onnx", [{"image": blob}])
    model = onnx.load(tmp_path / "compute.onnx")
    del model.graph.value_info[:]
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT16:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    for node in model.graph.node:
        if node.op_type == "Cast":
            node.attribute[0].i = TensorProto.FLOAT
    onnx.save(model, tmp_path / "whole.onnx")
    as_in_onnxruntime(tmp_path / "compute.onnx", tmp_path / "whole.onnx")


def test_a_net_that_normalises_by_itself_in_another_way(as_in_onnxruntime, tmp_path):
    net = open_net("lite-dwsep").net()
    net.preprocess = Preprocess(256, (0.5, 0.25, 0.125), (1.0, 2.0, 0.5), own_maximum=False)
    write_onnx(net, 256, tmp_path / "net.onnx", "embedded")
    as_in_onnxruntime(tmp_path / "net.onnx")


def test_a_file_says_how_its_input_is_normalised(program, small, tmp_path):
    """By another mean, deviation and divisor than U2-Net's, as a net of another kind has them."""
    model = onnx.load(small)
    for key, value in Preprocess(32, (0.5, 0.25, 0.125), (1.0, 2.0, 0.5), own_maximum=False).to_metadata().items():
        model.metadata_props.add(key=f"u2slim.{key}", value=value)
    onnx.save(model, tmp_path / "other.onnx")
    Image.fromarray(render(7, 6)[0] // 2).save(tmp_path / "dark.png")
    masks = []
    for net in (small, tmp_path / "other.onnx"):
        python = tmp_path / f"python-{net.stem}"
        cut_out(onnx_runner(net, "onnxruntime"), tmp_path / "dark.png", python)
        masks.append(np.asarray(Image.open(python / "masks/dark.png")).astype(int))
        status, out, err = program(tmp_path / "dark.png", "--net", net, "-o", tmp_path, "--compare", python / "masks")
        assert status == 0, out + err
    assert np.abs(np.subtract(*masks)).max() > 5, "the normalisation is felt"

    for key, value in (("mean", "1 2"), ("std", "1 2 x"), ("std", "1 0 1"), ("divisor", "2")):
        model = onnx.load(tmp_path / "other.onnx")
        [entry] = [item for item in model.metadata_props if item.key == f"u2slim.{key}"]
        entry.value = value
        onnx.save(model, tmp_path / "odd.onnx")
        status, _, err = program(tmp_path / "dark.png", "--net", tmp_path / "odd.onnx", "-o", tmp_path / "odd")
        assert status == 2 and "odd.onnx is not an ONNX net" in err and "its input" in err
        with pytest.raises(UserError, match="odd.onnx does not say how its input is normalised"):
            onnx_runner(tmp_path / "odd.onnx", "onnxruntime")


def test_photos_that_cannot_be_read_are_named_and_the_others_done(program, small, tmp_path):
    folder = tmp_path / "photos"
    (folder / "folder.jpg").mkdir(parents=True)
    photo = Image.fromarray(render(7, 0)[0])
    photo.save(folder / "good.jpg")
    photo.save(folder / "good.png")
    for name in ("good.jpg", "good.png"):
        data = (folder / name).read_bytes()
        (folder / f"cut_{name}").write_bytes(data[: len(data) * 3 // 4])
    (folder / "flipped.png").write_bytes(bytes(b ^ (i == len(data) // 2) for i, b in enumerate(data)))
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").touch()
    (folder / "text.png").write_text("no image")
    (folder / "nowhere.png").symlink_to("absent.png")
    photo.save(folder / "moving.webp", save_all=True, append_images=[photo.transpose(0)])
    photo.save(folder / "moving.png", save_all=True, append_images=[photo.transpose(0)])
    photo.save(folder / "pages.tif", save_all=True, append_images=[photo])
    photo.convert("F").save(folder / "float.tif")
    bomb = bytearray((folder / "text.png").read_bytes())
    bomb[:] = b"BM" + bytes(8) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    bomb += (60000).to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(24)
    (folder / "bomb.bmp").write_bytes(bomb)
    reasons = {
        "cut_good.jpg": "the end is missing",
        "cut_good.png": "the end is missing",
        "flipped.png": "a checksum is wrong",
        "empty.jpg": "is empty (0 bytes)",
        "text.png": "not a JPEG, PNG, WebP, BMP or TIFF",
        "nowhere.png": "leads nowhere",
        "moving.webp": "an animation",
        "moving.png": "2 frames",
        "pages.tif": "several pages",
        "float.tif": "32-bit, signed or floating-point pixels",
        "bomb.bmp": "pixels are too many",
    }
    status, out, err = program(folder, tmp_path / "absent.jpg", "--net", small, "-o", tmp_path / "out")
    assert status == 1 and f"2 of {3 + len(reasons)} photos done" in out, out + err
    for name, reason in reasons.items():
        assert any(f"{name}" in line and reason in line for line in err.splitlines()), (name, err)
    assert f"{tmp_path}/absent.jpg: no such file." in err and "passed over 1 files" in err
    results = sorted(path.name for path in (tmp_path / "out" / "masks").iterdir())
    assert results == ["good.jpg.png", "good.png.png"]

    # Two photos of one name, from two folders: no result overwrites another.
    (tmp_path / "other").mkdir()
    photo.save(tmp_path / "other" / "good.jpg")
    words = (folder / "good.jpg", tmp_path / "other" / "good.jpg", "--net", small, "-o", tmp_path / "two")
    status, out, err = program(*words)
    assert status == 1 and "1 of 2" in out and "would overwrite" in err
    (tmp_path / "file").touch()
    assert program(folder / "good.jpg", "--net", small, "-o", tmp_path / "file")[0] == 2

    # Nor a result a photo.
    photo.save(tmp_path / "out" / "masks" / "mine.png")
    before = (tmp_path / "out" / "masks" / "mine.png").read_bytes()
    status, out, err = program(tmp_path / "out" / "masks", "--net", small, "-o", tmp_path / "out")
    assert status == 1 and "0 of 3" in out and err.count("would overwrite a photo") == 3
    assert (tmp_path / "out" / "masks" / "mine.png").read_bytes() == before


def changed(change) -> bytes:
    model = small_net("external")
    change(model)
    return model.SerializeToString()


def set_dim(index: int, value: int):
    return lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[index], "dim_value", value)


def set_ints(node: int, name: str, values: list[int]):
    def change(model: onnx.ModelProto) -> None:
        attribute = next(a for a in model.graph.node[node].attribute if a.name == name)
        attribute.ints[:] = values

    return change


def value_info(name: str, shape: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def without_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def classifier(model: onnx.ModelProto) -> None:
    without_metadata(model)
    model.graph.output[0].CopyFrom(value_info("mask", [1, 1000]))


def eight_bits(change):
    """The bytes of a small net in 8 bits after a change."""
    model = narrowed(small_net("external"), "int8")
    change(model)
    return model.SerializeToString()


def packed(change):
    """Likewise of one that is packed."""
    model = narrowed(small_net("external"), "packed")
    change(model)
    return model.SerializeToString()


def set_shape(*shape: int):
    return lambda model: model.graph.node[0].attribute[0].ints.__setitem__(slice(None), shape)


def set_weight(name: str, values: np.ndarray):
    def change(model: onnx.ModelProto) -> None:
        weight = next(w for w in model.graph.initializer if w.name == name)
        weight.CopyFrom(numpy_helper.from_array(values, name))

    return change


HALF_NAN = numpy_helper.from_array(np.float16([1, np.nan]), "half")
NOT_OURS = {
    "empty": (b"", "it is empty or holds no net"),
    "a page": (b"<!doctype html><html></html>", "not an ONNX net"),
    "cut short": (small_net("external").SerializeToString()[:-300], "the end is missing"),
    "two inputs": (changed(lambda m: m.graph.input.append(value_info("more", [1]))), "2 inputs"),
    "no input": (changed(lambda m: m.graph.ClearField("input")), "nothing computes image"),
    "gray": (changed(set_dim(1, 1)), "1x1x32x32, not one image of 1x3xHxW"),
    "huge": (changed(set_dim(2, 10**12)), "pixels on a side"),
    "negative": (changed(set_dim(3, -5)), "pixels on a side"),
    "no mask": (changed(lambda m: setattr(m.graph.output[0], "name", "d0")), "no output `mask`"),
    "a classifier": (changed(classifier), "1x1000, not a mask"),
    "unknown size": (
        changed(lambda m: (set_dim(2, 0)(m), m.metadata_props.add(key="u2slim.size", value="9" * 30))),
        "its input is to be 0 pixels on a side",
    ),
    "another operation": (changed(lambda m: setattr(m.graph.node[2], "op_type", "Loop")), "operation Loop"),
    "an input too many": (changed(lambda m: m.graph.node[2].input.append("x")), "too few inputs or too many"),
    "a missing tensor": (changed(lambda m: m.graph.node[2].input.__setitem__(0, "gone")), "nothing computes gone"),
    "no stride": (changed(set_ints(3, "strides", [0, 0])), "impossible value of strides, 0"),
    "a huge margin": (changed(set_ints(1, "pads", [10**9] * 4)), "impossible value of pads"),
    "too few weights": (changed(lambda m: m.graph.initializer[0].dims.__setitem__(0, 4000)), "other values than"),
    "NaN": (changed(lambda m: m.graph.initializer[3].float_data.__setitem__(2, float("nan"))), "NaN or infinite"),
    "NaN in float16": (changed(lambda m: m.graph.initializer.append(HALF_NAN)), "NaN or infinite"),
    "huge weights": (changed(lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**62)), "impossible size"),
    "8 bits of another project": (eight_bits(without_metadata), "read from files of export.py only"),
    "8 bits read as they are": (eight_bits(lambda m: m.graph.node[0].input.__setitem__(0, "image")), "writes none"),
    "no factor": (eight_bits(lambda m: m.graph.node[0].input.__setitem__(1, "image")), "have no factor"),
    "few factors": (eight_bits(set_weight("w1.scale", np.float32([1, 2]))), "number of factors than of channels"),
    "few offsets": (eight_bits(set_weight("w1.zero", np.int8([1, 2]))), "number of factors than of offsets"),
    "odd factors": (eight_bits(set_weight("w1.scale", np.int64([1, 2, 3, 4]))), "of an unknown type"),
    "huge factors": (eight_bits(set_weight("w1.scale", np.float32([3e38] * 4))), "NaN or infinite"),
    "few planes": (packed(set_weight("w1.planes", np.zeros((1, 14), np.uint8))), "has 1 planes"),
    "many planes": (packed(set_weight("w1.planes", np.zeros((9, 14), np.uint8))), "has 9 planes"),
    "planes of another type": (packed(set_weight("w1.planes", np.zeros((6, 14), np.int8))), "not 2 to 8 of bytes"),
    "short planes": (packed(set_weight("w1.planes", np.zeros((6, 13), np.uint8))), "fewer numbers than its shape"),
    "long planes": (packed(set_weight("w1.planes", np.zeros((6, 15), np.uint8))), "other planes or scales"),
    "few scales": (packed(set_weight("w1.scales", np.float32([1, 2, 3]))), "other planes or scales"),
    "huge scales": (packed(set_weight("w1.scales", np.float32([3e38] * 4))), "NaN or infinite"),
    "a huge packed weight": (packed(set_shape(2**62, 4, 3, 3)), "fewer numbers than its shape"),
    "an empty packed weight": (packed(set_shape(0, 3, 3, 3)), "fewer numbers than its shape"),
    "no scales": (packed(lambda m: m.graph.node[0].input.__setitem__(1, "image")), "lacks its planes or its scales"),
    "an operation of ours": (packed(lambda m: setattr(m.graph.node[0], "op_type", "Pack")), "operation u2slim.Pack"),
    "weights elsewhere": (changed(lambda m: m.graph.initializer[0].external_data.add(key="location")), "of their own"),
}


def test_models_that_are_not_ours_are_refused_before_any_photo(program, tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "photo.png")
    for name, (data, reason) in NOT_OURS.items():
        (tmp_path / "net.onnx").write_bytes(data)
        status, out, err = program(tmp_path / "photo.png", "--net", tmp_path / "net.onnx", "-o", tmp_path / "out")
        assert status == 2 and reason in err and "net.onnx is not an ONNX net" in err and not out, (name, err)
        assert not (tmp_path / "out").exists()

    # Only a run tells this.
    def square(model: onnx.ModelProto) -> None:
        model.graph.node[-1].CopyFrom(helper.make_node("Mul", ["sum", "sum"], ["mask"]))
        model.graph.initializer[1].float_data[:] = [1e6] * 4

    (tmp_path / "net.onnx").write_bytes(changed(square))
    status, out, err = program(tmp_path / "photo.png", "--net", tmp_path / "net.onnx", "-o", tmp_path / "out")
    assert status == 2 and "needs a sigmoid" in err


ASKED = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--scale", "maximum")


def write_theirs(path: Path, nodes: list | None = None, sides: tuple = (32, 32), **shapes: list) -> Path:
    """A net of another project, of random weights: these nodes before a sigmoid, or our small net's."""
    model = small_net("external", dynamic=True)
    without_metadata(model)
    image, mask = model.graph.input[0], model.graph.output[0]
    if nodes is not None:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    image.CopyFrom(value_info("image", shapes.get("image", [1, 3, *sides])))
    mask.CopyFrom(value_info("mask", shapes.get("mask", ["a", "b", "c", "d"])))
    onnx.save(model, path)
    return path


def conv(source: str = "image", **settings) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, "w1", "b1"], ["four"], pads=[1] * 4, kernel_shape=[3, 3], **settings)


ONE_OF_FOUR = helper.make_node("Conv", ["four", "one"], ["logit"], kernel_shape=[1, 1])


def write_one_mask(path: Path, last: list, first: list = (), source: str = "image", **settings) -> Path:
    """Another project's net: some nodes, two convolutions, a sigmoid to `soft`, and what makes `mask` of that."""
    sigmoid = helper.make_node("Sigmoid", ["logit"], ["soft"])
    write_theirs(path, [*first, conv(source), ONE_OF_FOUR, sigmoid, *last], **settings)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.full((1, 4, 1, 1), 0.3, np.float32), "one"))
    onnx.save(model, path)
    return path


def python_says(net: Path, asked: tuple | None = None) -> str:
    """The sentence with which Python refuses a file."""
    with pytest.raises(UserError) as caught:
        open_net(net, Preprocess.given(*asked[1::2]) if asked else None).runner("onnxruntime")
    return str(caught.value)


@pytest.mark.parametrize(
    "asked",
    [
        ASKED,
        ("--mean", "-0.5,0.4,0.3", "--std", " 0.2", "--scale", "255"),
        ("--mean", "123.7,116.3,103.5", "--std", "58.4,57.1,57.4", "--scale", "1"),
    ],
)
def test_a_net_of_another_project_is_fed_as_asked(program, tmp_path, capsys, asked):
    """Seven outputs, the fused one first, of any size and without our metadata, as U2-Net's files are."""
    model = small_net("external", dynamic=True)
    without_metadata(model)
    for index in range(6):
        model.graph.node.append(helper.make_node("Relu", ["c3"], [f"d{index}"], f"side{index}"))
        model.graph.output.append(value_info(f"d{index}", [1, 1, "h", "w"]))
    net = tmp_path / "net.onnx"
    onnx.save(model, net)
    Image.fromarray(render(7, 0)[0] // 2).save(tmp_path / "photo.png")
    cut_out(
        open_net(net, Preprocess.given(*asked[1::2])).runner("onnxruntime"), tmp_path / "photo.png", tmp_path / "python"
    )
    words = (tmp_path / "photo.png", "--net", net, "-o", tmp_path / "ours", "--compare", tmp_path / "python/masks")
    status, out, err = program(*words, *asked)
    assert status == 0, out + err
    [said] = [line for line in capsys.readouterr().err.splitlines() if " takes mean " in line]
    assert err.splitlines()[0] == said.removeprefix("u2slim: ") and err.startswith(f"{net} takes mean ")
    other = (*asked[:3], "0.9", *asked[4:])
    assert program(*words, *other)[0] == 1, "the normalisation is felt"


def test_a_normalisation_that_nobody_knows_or_that_contradicts_is_refused_as_in_python(program, small, tmp_path):
    Image.fromarray(render(7, 0)[0]).save(tmp_path / "photo.png")
    theirs, says = write_theirs(tmp_path / "theirs.onnx"), tmp_path / "says.onnx"
    model = onnx.load(theirs)
    helper.set_model_props(model, {"u2slim.mean": "0.485 0.456 0.406"})
    onnx.save(model, says)
    other = (*ASKED[:5], "255")
    cases = [(theirs, None), (SHIPPED["lite-half"].onnx, ASKED), (small, other), (says, other)]
    for net, asked in cases:
        status, out, err = program(tmp_path / "photo.png", "--net", net, "-o", tmp_path / "out", *(asked or ()))
        assert (status, out, err) == (2, "", python_says(net, asked) + "\n")
    for net in (small, says):  # which say so themselves
        status, _, err = program(tmp_path / "photo.png", "--net", net, "-o", tmp_path / "out", *ASKED)
        assert status == 0 and "takes mean" not in err, err


def test_masks_that_lie_askew_and_colours_that_come_last_are_refused(program, tmp_path):
    Image.fromarray(render(7, 0)[0]).save(tmp_path / "photo.png")
    askew = [helper.make_node("Transpose", ["soft"], ["mask"], perm=[0, 1, 3, 2])]
    plain = [helper.make_node("Identity", ["soft"], ["mask"])]
    first = [helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2])]
    last = {"first": first, "source": "turned"}
    made = {
        "of shape 1x1x64x32 for an image of 64x32": (askew, {"sides": (32, 64)}),
        "is 1x1x64x32, not a mask of 1x1x32x64": (askew, {"sides": (32, 64), "mask": [1, 1, 64, 32]}),
        "image is 1x32x32x3, with the colours last": (plain, last | {"image": [1, 32, 32, 3]}),
        "image is ?x?x?x3, with the colours last": (plain, last | {"image": ["b", "h", "w", 3]}),
    }
    for reason, (nodes, settings) in made.items():
        net = write_one_mask(tmp_path / "net.onnx", nodes, **settings)
        status, _, err = program(tmp_path / "photo.png", "--net", net, "-o", tmp_path / "out", *ASKED)
        assert status == 2 and reason in err, (reason, err)
        python_says(net, ASKED)
    # Where only the axis of the one channel is another, it is a mask.
    nodes = [helper.make_node("Transpose", ["soft"], ["mask"], perm=[0, 2, 3, 1])]
    net = write_one_mask(tmp_path / "last.onnx", nodes, sides=(32, 64), mask=[1, 32, 64, 1])
    cut_out(
        open_net(net, Preprocess.given(*ASKED[1::2])).runner("onnxruntime"), tmp_path / "photo.png", tmp_path / "py"
    )
    words = ("--net", net, "-o", tmp_path / "out", "--compare", tmp_path / "py/masks", *ASKED)
    status, out, err = program(tmp_path / "photo.png", *words)
    assert status == 0, out + err


def test_values_that_are_no_probability_are_refused_at_the_photo_that_shows_them(program, tmp_path):
    """The mean of a neighbourhood times 1.5: of noise and of dark photos it is below 1."""
    net = write_theirs(
        tmp_path / "net.onnx",
        [helper.make_node("Conv", ["image", "mean"], ["mask"], pads=[3] * 4, kernel_shape=[7, 7])],
    )
    model = onnx.load(net)
    del model.graph.initializer[:]
    model.graph.initializer.append(numpy_helper.from_array(np.full((1, 3, 7, 7), 1.5 / 147, np.float32), "mean"))
    onnx.save(model, net)
    (tmp_path / "photos").mkdir()
    for name, value in (("a", 150), ("b", 255), ("c", 90)):
        Image.new("RGB", (40, 30), (value,) * 3).save(tmp_path / "photos" / f"{name}.png")
    words = ("--net", net, "-o", tmp_path / "out", "--mean", "0", "--std", "1", "--scale", "255")
    status, out, err = program(tmp_path / "photos", *words)
    assert status == 1 and "2 of 3 photos done" in out, out + err
    assert re.search(
        r"b\.png: the net gives values of 0\.\d+ to 1\.5, no probability: its output needs a sigmoid", err
    ), err


def test_logits_that_one_gray_would_not_show_are_refused_at_once(program, tmp_path):
    Image.new("RGB", (40, 30), "gray").save(tmp_path / "photo.png")
    net = write_plain_net(tmp_path / "net.onnx", 32, 32)
    model = onnx.load(net)
    without_metadata(model)
    model.graph.initializer[0].float_data[:] = [1, -1, 0.5]  # of .5 in each channel .25
    onnx.save(model, net)
    words = ("--net", net, "-o", tmp_path / "out", "--mean", "0", "--std", "1", "--scale", "255")
    status, _, err = program(tmp_path / "photo.png", *words)
    assert status == 2 and "no probability: its output needs a sigmoid" in err, err


def test_an_isnet_and_a_u2net_of_another_project_get_their_own_normalisation(program, tmp_path, capsys):
    """Told by their number of convolutions, and an IS-Net by its first one, which halves the photo."""
    torch.manual_seed(2)
    grouped = {"_target_": "u2slim.models.GroupedConv", "_partial_": True, "groups": 16}  # smaller
    isnet = build_net({"_target_": "u2slim.models.ISNet", "conv": grouped}).eval()
    with torch.no_grad():
        isnet.sides[0].weight *= 30
    Image.fromarray(render(7, 0)[0] // 2).save(tmp_path / "photo.png")
    for name, net in (("IS-Net", isnet), ("U2-Net", random_net())):
        path = write_as_published(net, tmp_path / f"{name}.onnx")
        cut_out(net_runner(net, 64), tmp_path / "photo.png", tmp_path / name)
        words = ("--net", path, "-o", tmp_path / "ours", "--compare", tmp_path / name / "masks")
        status, out, err = program(tmp_path / "photo.png", *words)
        assert status == 0, out + err
        open_net(path).runner("onnxruntime")
        assert err.splitlines()[0] == capsys.readouterr().err.strip().removeprefix("u2slim: ")
        assert f"as it looks like {name}; else give mean, std and scale." in err
        status, out, err = program(tmp_path / "photo.png", *words, "--mean", "0", "--std", "1", "--scale", "255")
        assert status == 1 and "the mask differs from" in err and "after a division by 255, as given." in err


def test_what_is_wrong_with_a_command_is_said(program, small, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    full = (tmp_path / "photo.png", "--net", small, "-o", tmp_path / "out")
    for words, reason in {
        (): "Say what to cut out",
        full[:1]: "-o DIR",
        full[:3]: "-o DIR",
        (*full, "--nonsense"): "--nonsense is not known",
        (*full, "--threads", "0"): "--threads takes a number",
        (*full, "--device=tpu"): "choose cpu or cuda",
        (*full, "--mask", "none"): "choose also or only",
        (*full, "--threshold", "1.5"): "--threshold takes a number from 0 to 1, not 1.5",
        (*full, "--threshold", "-.1"): "--threshold takes a number",
        (*full, "--threshold", "nan"): "--threshold takes a number",
        (*full, "--threshold="): "--threshold takes a number",
        (*full, "--mean", "0", "--scale", "255"): "mean, std and scale belong together, and std is not given",
        (*full, "--scale=1"): "mean and std is not given",
        (*full, "--mean=0,0", "--std=1", "--scale=255"): "mean=0,0: give three numbers, for red, green and blue",
        (*full, "--mean=nan", "--std=1", "--scale=255"): "mean=nan: give three",
        (*full, "--mean=0,,0", "--std=1", "--scale=255"): "mean=0,,0: give three",
        (*full, "--mean=", "--std=1", "--scale=255"): "mean=: give three",
        (*full, "--mean=0x", "--std=1", "--scale=255"): "mean=0x: give three",
        (*full, "--mean=0", "--std=0,1,1", "--scale=255"): "std=0,1,1: deviations are above 0",
        (*full, "--mean=0", "--std=1", "--scale=256"): "scale=256 is not known; choose one of: 255, maximum, 1.",
        (*full, "--net"): "--net needs a value",
        (*full, "--net", tmp_path / "absent.onnx"): "No model at",
        (*full, "--net", "absent"): "no absent.onnx beside the program",
        (*full, "--net", tmp_path): "is a folder",
        (*full[:1], "-m", small): "-m is now --net",
        (*full[:1], f"--model={small}"): "--model is now --net",
        (*full, "--backend", "cpu"): "--backend is now --device",
        (*full, "--cutout"): "--mask only for masks alone",
        (*full, "--device", "cuda"): "docs/guides/cuda.md",
    }.items():
        if reason == "docs/guides/cuda.md" and Path("/dev/nvidia0").exists():
            continue
        status, out, err = program(*words)
        assert status == 2 and reason in err and not out, (words, out, err)
    assert program("--help")[0] == 0 and "--mask" in program("--help")[1]
    assert re.match(r"u2slim \d+\.\d+\.\d+ with OpenCV [45]\.", program("--version")[1])
    assert program(*full, "--threads=1", "--")[0] == 0


def test_the_example_of_the_docs_builds_against_an_installed_library(build, small, tmp_path):
    page = (REPO / "docs/guides/cpp.md").read_text()
    (tmp_path / "CMakeLists.txt").write_text(re.search(r"```cmake\n(.*?)```", page, re.DOTALL)[1])
    (tmp_path / "example.cpp").write_text(re.search(r"```cpp\n(.*?)```", page, re.DOTALL)[1])
    shell("cmake", "--install", build, "--prefix", tmp_path / "prefix")
    shell("cmake", "-S", tmp_path, "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
    shell("cmake", "--build", tmp_path / "b")
    Image.fromarray(render(7, 0)[0]).save(tmp_path / "photo.png")
    shell(tmp_path / "b" / "example", small, tmp_path / "photo.png", tmp_path / "mask.png")
    shell(tmp_path / "prefix" / "bin" / "u2slim", tmp_path / "photo.png", "--net", small, "-o", tmp_path)
    assert (np.asarray(Image.open(tmp_path / "mask.png")) == np.asarray(Image.open(tmp_path / "masks/photo.png"))).all()


@pytest.mark.slow
def test_the_tutorial_leads_from_photos_to_this_program(tmp_path, program):
    """Its own commands, for two steps of a small size instead of many."""
    write_set(tmp_path, "photos", "masks", 40)
    write_set(tmp_path, "apart/photos", "apart/masks", 4)
    blocks = re.findall(r"^```\n(.*?)^```", (REPO / "docs/guides/tutorial.md").read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    short = ("trainer.max_steps=2", "callbacks.checkpoint.every_n_train_steps=1", "scheduler.warmup_steps=0")
    short += ("data.size=64", "data.num_workers=0")
    for line in lines:
        first, *words = shlex.split(line)
        if first == "python":
            door, *rest = words if words[0] != "-m" else words[1:]
            run(door, *rest, *(short if door == "train.py" else ()), cwd=tmp_path)
        elif first == "u2slim":
            run("u2slim.app.main", *words, "--runtime", "opencv", cwd=tmp_path)
        elif first != "make":
            status, out, err = program(*(word if word.startswith("-") else tmp_path / word for word in words))
            assert status == 0, out + err
    found, in_cpp = (sorted((tmp_path / "outputs" / name / "masks").iterdir()) for name in ("cut", "cut-cpp"))
    assert len(found) == 40
    for path, other in zip(found, in_cpp, strict=True):
        ours, theirs = (cv2.imread(str(each), 0) for each in (path, other))
        assert np.abs(ours.astype(int) - theirs).max() <= 1, path.name
