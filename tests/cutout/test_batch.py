"""Cutting out many photos: nothing lost, nothing done twice, everything bad named; models that are not ours."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from tests.conftest import REPO, THREADS, cut, random_net, wait_for
from u2slim.cutout.batch import Memory, cut_all
from u2slim.cutout.cutter import Cutter, Made
from u2slim.cutout.single import Style
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.images.masks import to_8bit
from u2slim.images.photos import find_photos
from u2slim.images.read import read_image
from u2slim.images.refine import ForegroundML, GuidedFilter
from u2slim.processes import cpu_share, free_memory
from u2slim.runtime import net_runner, onnx_runner
from u2slim.runtime.onnx_writer import write_onnx
from u2slim.zoo import SHIPPED, open_net

RUNTIMES = ("torch", "opencv", "onnxruntime", "openvino")


def photos_in(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        Image.fromarray(render(3, index)[0]).save(folder / f"{index}.jpg", quality=95)
    return folder


def written(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """A random net by runtime: itself for torch, and its file for the others."""
    net, path = random_net(), tmp_path_factory.mktemp("nets") / "net.onnx"
    write_onnx(net, 64, path)
    return {"torch": partial(net_runner, net, 64)} | {name: partial(onnx_runner, path) for name in RUNTIMES[1:]}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_many_threads_write_what_a_plain_loop_writes(nets, tmp_path, runtime):
    source = photos_in(tmp_path / "photos", 12)
    photos = find_photos(source)
    several = Cutter(nets[runtime](runtime, streams=4), tmp_path / "four")
    assert cut_all(several, str(source), photos, workers=4).done == 12
    loop = nets[runtime](runtime)
    for photo, name in photos:
        image, mask = read_image(photo), read_image(several.paths(photo, name)[0])[..., 0]
        expected = to_8bit(loop(image))
        assert np.ptp(expected) > 100
        np.testing.assert_allclose(mask.astype(int), expected, atol=1)
        np.testing.assert_array_equal(np.asarray(Image.open(several.paths(photo, name)[1])), np.dstack([image, mask]))


def test_only_what_is_missing_older_or_made_otherwise_is_done_again(tmp_path):
    source, output = photos_in(tmp_path / "photos", 4), tmp_path / "cut"
    photos = find_photos(source)
    runner = net_runner(random_net(), 64)
    again = Cutter(runner, output, cutout=False)

    def count(cutter: Cutter = again, **options) -> tuple[int, int]:
        outcome = cut_all(cutter, str(source), photos, **options)
        return outcome.done, outcome.before

    assert count() == (4, 0)
    assert count() == (4, 4)
    (output / "masks/2.png").unlink()
    source.joinpath("3.jpg").write_bytes(source.joinpath("1.jpg").read_bytes())
    os.utime(source / "3.jpg", ns=(0, 0))  # as a copy that keeps its time
    assert count() == (4, 2)
    assert (output / "masks/3.png").read_bytes() == (output / "masks/1.png").read_bytes()
    assert count(redo=True) == (4, 0)
    assert count(Cutter(runner, output)) == (4, 0), "there were no cut-outs"
    before = written(output)
    refined = Cutter(runner, output, style=Style(refine=GuidedFilter()))
    assert count(refined) == (4, 0), "other settings"
    assert count(refined) == (4, 4)
    assert written(output)["masks/0.png"] != before["masks/0.png"]
    assert count(Cutter(net_runner(random_net(), 96), output, style=Style(refine=GuidedFilter()))) == (4, 0), (
        "another net"
    )


def test_ctrl_c_leaves_whole_files_and_the_same_command_goes_on(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    photo = source / "first.jpg"
    Image.fromarray(render(3, 0)[0]).save(photo)
    for index in range(300):
        (source / f"{index}.jpg").symlink_to(photo)
    options = ("--net", "lite-dwsep", "--runtime", "opencv")
    command = [sys.executable, "-m", "u2slim.app.main", "cut", "photos", "-o", "cut", *options]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | THREADS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `make test &` has it ignored
    )
    wait_for(lambda: len(list(tmp_path.glob("cut/masks/*.png"))) > 3 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in printed, printed
    done = len(list(tmp_path.glob("cut/masks/*.png")))
    assert f"interrupted: {done} of 301 photos are done; give the same command again to continue" in printed
    assert 3 < done < 301 and not list(tmp_path.glob("cut/*/.*"))
    for path in tmp_path.glob("cut/*/*.png"):
        Image.open(path).load()
    for index in range(20, 300):  # what is left would take a minute
        (source / f"{index}.jpg").unlink()
    left = sum((tmp_path / f"cut/masks/{path.stem}.png").exists() for path in source.iterdir())
    printed = cut("photos", "-o", "cut", *options, cwd=tmp_path)
    assert f"21 of 21 photos done with opencv: cut ({left} skipped, already done" in printed


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_photos(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    Image.fromarray(render(3, 0)[0]).resize((800, 600)).save(source / "0.jpg")
    script = (
        "import resource, sys; from pathlib import Path; from u2slim.images.photos import find_photos\n"
        "from u2slim.cutout.batch import cut_all; from u2slim.cutout.cutter import Cutter\n"
        "from u2slim.runtime import net_runner\n"
        "from tests.conftest import random_net\n"
        "cutter = Cutter(net_runner(random_net(), 64), Path(sys.argv[1]))\n"
        "cut_all(cutter, 'photos', find_photos('photos'), workers=2)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    peaks = []
    for count in (20, 200):
        for index in range(1, count):
            (source / f"{index}.jpg").exists() or os.link(source / "0.jpg", source / f"{index}.jpg")
        command = [sys.executable, "-c", script, f"cut{count}"]
        env = os.environ | {"PYTHONPATH": os.pathsep.join((str(REPO / "src"), str(REPO)))}
        out = subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True).stdout
        peaks.append(int(out.split()[-1]))
    assert peaks[1] < peaks[0] + 100, f"{peaks} MB: 180 photos of 1.4 MB more"


def test_every_bad_photo_is_named_and_the_others_are_done(tmp_path):
    source = photos_in(tmp_path / "photos", 1)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 60, 3), np.uint8)
    good = {
        "dot.png": Image.fromarray(pixels[:1, :1]),
        "strip.png": Image.new("RGB", (20_000, 20), "red"),
        "tall.jpg": Image.new("RGB", (3, 40_000), "red"),
        "deep.png": Image.fromarray(pixels[..., 0].astype(np.uint16) * 200),
        "cmyk.jpg": Image.fromarray(pixels).convert("CMYK"),
        "alpha.webp": Image.fromarray(np.dstack([pixels, pixels[..., 0]])),
        "palette.png": Image.fromarray(pixels).convert("P"),
    }
    for name, image in good.items():
        image.save(source / name)
    Image.fromarray(pixels).save(
        source / "animated.png", save_all=True, append_images=[Image.fromarray(255 - pixels)], duration=9
    )
    (source / "cut.jpg").write_bytes((source / "0.jpg").read_bytes()[:900])
    (source / "cut.png").write_bytes((source / "palette.png").read_bytes()[:-40])
    (source / "empty.jpg").write_bytes(b"")
    (source / "text.jpg").write_text("a letter")
    (source / "folder.jpg").mkdir()  # which is no photo
    (source / ".thumbnails").mkdir()
    Image.fromarray(pixels).save(source / ".thumbnails/0.jpg")
    os.mkfifo(source / "pipe.jpg")
    (source / "nowhere.jpg").symlink_to("none")
    bad = {
        "animated.png": "2 frames",
        "cut.jpg": "truncated",
        "cut.png": "cannot be read",
        "empty.jpg": "empty (0 bytes)",
        "text.jpg": "not an image of a known kind",
        "nowhere.jpg": "a link that leads nowhere",
    }
    options = ("photos", "-o", "cut", "--net", "lite-dwsep", "--refine", "guided", "--runtime", "opencv")
    printed = cut(*options, cwd=tmp_path, ok=False)
    assert "8 of 14 photos done with opencv: cut" in printed and "Traceback" not in printed
    for name, reason in bad.items():
        lines = [line for line in printed.splitlines() if f"photos/{name} " in line]
        assert len(lines) == 1 and reason in lines[0], printed
    for name, image in good.items():
        for kind in ("masks", "cutouts"):
            with Image.open(next((tmp_path / "cut" / kind).glob(f"{Path(name).stem}.*"))) as made:
                assert made.size == image.size, name
    assert "photos could not be cut out" in printed.splitlines()[-1]


def test_no_result_overwrites_a_photo_or_another_result(tmp_path):
    source = photos_in(tmp_path / "masks", 1)
    image = Image.open(source / "0.jpg")
    for name in ("a.jpg", "a.png", "a.jpg.webp", "b.png"):
        image.save(source / name)
    photos = find_photos(source)
    names = [name.as_posix() for _, name in photos]
    assert names == ["0", "a.jpg", "a.jpg.webp", "a.png", "b"]
    before = (source / "b.png").read_bytes()
    cutter = Cutter(net_runner(random_net(), 64), tmp_path)
    with pytest.raises(UserError, match="b.png would overwrite the photo .*b.png; choose another place with -o"):
        cut_all(cutter, str(source), photos)
    assert (source / "b.png").read_bytes() == before
    pytest.importorskip("pymatting", reason="pymatting is not installed: pip install pymatting")
    Image.new("RGB", (1, 1), "red").save(source / "dot.png")
    cutter = Cutter(net_runner(random_net(), 64), tmp_path / "cut", style=Style(foreground=ForegroundML()))
    assert cut_all(cutter, str(source), find_photos(source)).done == 6


def graph_file(path: Path, inputs: dict[str, list], nodes: list, outputs: list[str], weights: list = ()) -> Path:
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info(name, float32, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, float32, [1, 3, 32, 32]) for name in outputs],
        weights,
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )
    return path


def foreign_models(folder: Path) -> dict[Path, str]:
    """Files that are no nets of ours, and what is said of them."""
    image, node, make = [1, 3, 32, 32], helper.make_node, graph_file
    relu, sum_, loop = [node("Relu", ["x"], ["y"])], [node("Add", ["x", "z"], ["y"])], [node("Nothing", ["x"], ["y"])]
    huge = helper.make_tensor("shape", TensorProto.INT64, [2], [200_000, 200_000])
    absurd = [node("ConstantOfShape", ["shape"], ["big"]), *relu]
    thin = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[300_000, 300_000], raw_data=b"\0" * 64)
    whole = (SHIPPED["lite-dwsep"].onnx).read_bytes()
    (folder / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.onnx").write_bytes(b"")
    return {
        folder / "cut.onnx": "truncated, damaged or of another kind",
        folder / "empty.onnx": "it has 0 inputs|not an ONNX net",
        make(folder / "two.onnx", {"x": image, "z": image}, sum_, ["y"]): r"it has 2 inputs \(x, z\)",
        make(folder / "flat.onnx", {"x": [1, 10]}, relu, ["y"]): r"its input x is of shape \(1, 10\)",
        make(folder / "gray.onnx", {"x": [1, 1, 32, 32]}, relu, ["y"]): r"its input x is of shape \(1, 1, 32, 32\)",
        make(folder / "no.onnx", {"x": image}, relu, ["y"]): r"makes no mask: .* y is of shape \(1, 3, 32, 32\)",
        make(folder / "wide.onnx", {"x": [1, 3, 90_000, 90_000]}, relu, ["y"]): "asks for images of 90000x90000",
        make(folder / "absurd.onnx", {"x": image}, absurd, ["y"], [huge]): "arrays of up to 149.0 GiB",
        make(folder / "thin.onnx", {"x": image}, relu, ["y"], [thin]): "arrays of up to 335.3 GiB",
        make(folder / "odd.onnx", {"x": image}, loop, ["y"]): "cannot run .*odd.onnx: ",
    }


@pytest.mark.parametrize("runtime", ["opencv", "onnxruntime", "openvino"])
def test_a_model_that_is_not_ours_is_refused_in_a_sentence(tmp_path, runtime):
    for path, sentence in foreign_models(tmp_path).items():
        with pytest.raises(UserError, match=sentence):
            onnx_runner(path, runtime)


def test_logits_are_no_mask(tmp_path):
    class Logits(nn.Module):
        def forward(self, x):
            return x.mean(1, keepdim=True) * 9

    torch.onnx.export(Logits(), (torch.zeros(1, 3, 32, 32),), tmp_path / "logits.onnx", dynamo=False)
    with pytest.raises(UserError, match="no probability: its output needs a sigmoid"):
        onnx_runner(tmp_path / "logits.onnx")


def test_weights_beside_the_file_are_found(tmp_path):
    path = tmp_path / "net.onnx"
    model = onnx.load(SHIPPED["lite-dwsep"].onnx)
    photo = render(1, 1)[0]
    expected = onnx_runner(SHIPPED["lite-dwsep"].onnx)(photo)
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert path.stat().st_size < (tmp_path / "net.data").stat().st_size
    for runtime in RUNTIMES[1:]:
        np.testing.assert_allclose(onnx_runner(path, runtime)(photo), expected, atol=1e-3)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "openvino-bf16"])
def test_a_missing_runtime_is_named_with_what_installs_it(monkeypatch, runtime):
    extra = runtime.partition("-")[0]
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(UserError, match=f"runtime={runtime} needs {extra}: pip install {extra}"):
        onnx_runner(SHIPPED["lite-dwsep"].onnx, runtime)


def test_openvino_in_bfloat16_is_near_or_says_that_the_processor_has_none():
    openvino = pytest.importorskip("openvino")
    net, photo = SHIPPED["lite-dwsep"].onnx, render(1, 1)[0]
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(UserError, match="no.* bfloat16: use runtime=openvino"):
            onnx_runner(net, "openvino-bf16")
        return
    exact, rounded = (onnx_runner(net, runtime)(photo) for runtime in ("openvino", "openvino-bf16"))
    assert 0 < np.abs(exact - rounded).mean() < 0.02


@pytest.mark.skipif(sys.platform != "linux", reason="the signal stack is looked at on Linux only")
def test_signals_are_handled_on_the_stack_that_there_was_before_openvino():
    script = (
        "import ctypes, sys; from u2slim.runtime import onnx_runner\n"
        "def stack():\n"
        "    now = (ctypes.c_uint64 * 3)(); ctypes.CDLL(None).sigaltstack(None, now); return list(now)\n"
        "before = stack(); runner = onnx_runner(sys.argv[1], 'openvino'); assert stack() == before, stack()"
    )
    command = [sys.executable, "-c", script, str(SHIPPED["lite-dwsep"].onnx)]
    subprocess.run(command, cwd=REPO, env=os.environ | THREADS, check=True)


BY_REMBG = """
import json, sys
import rembg
from PIL import Image
named, photos = json.loads(sys.argv[1]), sys.argv[2:]
for name, settings in named.items():
    session = rembg.new_session(name, **settings)
    for photo in photos:
        rembg.remove(Image.open(photo), session=session, only_mask=True).save(f"{photo}-{name}.png")
"""


def hold_against_rembg(python: str | Path, tmp_path: Path, as_u2netp: bool) -> None:
    """An external file of ours, put where docs/guides/cut.md says, gives rembg the masks that `u2slim cut` makes."""
    net, home = open_net("lite-half").net(), tmp_path / ".rembg" / "models"
    files = [home / "u2net_custom" / "net.onnx", *([home / "u2netp" / "u2netp.onnx"] if as_u2netp else [])]
    for file in files:
        file.parent.mkdir(parents=True)
        write_onnx(net, 320, file, "external")
    source = photos_in(tmp_path / "photos", 2)
    exact = cv2.resize(render(3, 2)[0], (320, 320))
    Image.fromarray(exact).save(source / "exact.png")
    cut("photos", "-o", "cut", "--net", files[0], "--mask", "only", cwd=tmp_path)
    names = {file.parent.name: {"model_path": str(file)} if file == files[0] else {} for file in files}
    photos = find_photos(source)
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "U2NET_HOME", "REMBG_HOME")}
    env |= THREADS | {"HOME": str(tmp_path), "XDG_DATA_HOME": ""}
    words = [python, "-c", BY_REMBG, json.dumps(names), *(photo for photo, _ in photos)]
    subprocess.run(words, cwd=tmp_path, env=env, check=True)
    for photo, name in photos:
        ours = np.asarray(Image.open(tmp_path / f"cut/masks/{name}.png"))
        assert np.ptp(ours) == 255
        for model in names:
            theirs = np.asarray(Image.open(f"{photo}-{model}.png")).astype(int)
            if name.name == "exact":  # rembg cuts off what this code rounds
                assert np.abs(theirs - ours).max() <= 1
            else:  # rembg resizes both ways with Lanczos
                assert np.abs(theirs - ours).mean() < 2


@pytest.mark.slow
def test_rembg_gives_the_masks_of_an_external_file(tmp_path):
    pytest.importorskip("rembg", reason="rembg is not installed: pip install 'rembg[cpu]'")
    hold_against_rembg(sys.executable, tmp_path, as_u2netp=False)  # by its name only newer ones take another file


@pytest.mark.slow
def test_the_newest_rembg_gives_the_masks_of_an_external_file(tmp_path):
    """In an environment of its own, since its pins exclude those of requirements-dev.txt."""
    python = tmp_path / "newest" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "newest"], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "rembg[cpu]>2.0.69"]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"pip cannot install the newest rembg: {installed.stderr.strip().splitlines()[-1]}")
    hold_against_rembg(python, tmp_path, as_u2netp=True)


def test_guided_edges_are_the_photos_and_colours_the_subjects():
    pytest.importorskip("pymatting", reason="pymatting is not installed: pip install pymatting")
    y, x = np.mgrid[:600, :800]
    disk = np.hypot(y - 300, x - 400) < 200
    photo = np.where(disk[..., None], np.uint8([200, 40, 40]), np.uint8([30, 60, 200]))
    rough = cv2.GaussianBlur(disk.astype(np.float32), (0, 0), 6)
    rough = cv2.warpAffine(rough, np.float32([[1, 0, 4], [0, 1, 0]]), (800, 600))
    refined = GuidedFilter()(photo, rough)
    assert refined.dtype == np.float32 and refined.min() >= 0 and refined.max() <= 1
    assert ((refined > 0.5) != disk).sum() < 0.1 * ((rough > 0.5) != disk).sum()

    matte = cv2.GaussianBlur(disk.astype(np.float32), (0, 0), 3)
    mixed = np.rint(matte[..., None] * (200, 40, 40) + (1 - matte[..., None]) * (30, 60, 200)).astype(np.uint8)
    colours = ForegroundML()(mixed, to_8bit(matte)).astype(int)
    edge = (matte > 0.1) & (matte < 0.9)
    assert np.abs(colours - (200, 40, 40))[edge].mean() < 5 < 50 < np.abs(mixed - (200, 40, 40))[edge].mean()
    np.testing.assert_array_equal(colours[matte == 1], mixed[matte == 1])


def test_a_photo_that_makes_a_runtime_throw_is_one_line(nets, tmp_path):
    source = photos_in(tmp_path / "photos", 3)
    runner = nets["opencv"]("opencv")
    infer = runner.run

    def run_or_throw(blob):
        if np.array_equal(blob, runner.blob(runner.resized(read_image(source / "1.jpg")))):
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION :\n no kernel")
        return infer(blob)

    runner.run = run_or_throw
    outcome = cut_all(Cutter(runner, tmp_path / "cut"), str(source), find_photos(source), workers=2)
    assert outcome.done == 2
    assert outcome.failed == {
        str(source / "1.jpg"): f"{source}/1.jpg: RuntimeError: [ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : no kernel"
    }
    assert sorted(written(tmp_path / "cut")) == ["cutouts/0.png", "cutouts/2.png", "masks/0.png", "masks/2.png"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc"), RuntimeError("CUDA out of memory")])
def test_what_ran_out_of_memory_is_done_alone_at_the_end(nets, tmp_path, error):
    source = photos_in(tmp_path / "photos", 6)
    runner = nets["opencv"]("opencv", streams=3)
    infer, running, told = runner.run, [], []

    def run_or_throw(blob):
        running.append(None)
        try:
            time.sleep(0.05)
            if len(running) > 1:
                raise error
            return infer(blob)
        finally:
            running.pop()

    runner.run = run_or_throw
    report = lambda photo, paths, made: told.append((photo.name, isinstance(made, Made)))  # noqa: E731
    outcome = cut_all(Cutter(runner, tmp_path / "cut"), str(source), find_photos(source), 3, report=report)
    assert (outcome.done, outcome.failed) == (6, {}) and len(written(tmp_path / "cut")) == 12
    assert sorted(told) == [(f"{index}.jpg", True) for index in range(6)]

    def throw(blob):
        raise error

    runner.run = throw
    outcome = cut_all(Cutter(runner, tmp_path / "none"), str(source), find_photos(source), 3)
    assert outcome.done == 0 and all("not enough memory" in reason for reason in outcome.failed.values())


def test_photos_wait_for_memory_and_one_goes_however_large_it_is(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (100, 100)).save(path)
    for free, most in ((1, 1), (10_000 * 24 * 2, 2), (10**9, 4)):
        memory, inside, seen = Memory(free), [], []

        def work(memory=memory, inside=inside, seen=seen):
            with memory.for_photo(path, 24):
                inside.append(None)
                time.sleep(0.1)
                seen.append(len(inside))
                inside.pop()

        with ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(work) for _ in range(4)]:
                future.result(timeout=10)
        assert max(seen) == most and memory.taken == 0


def test_a_containers_share_bounds_threads_and_memory(tmp_path):
    assert cpu_share(tmp_path) is None and free_memory(tmp_path, tmp_path / "absent") is None
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu_share(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:      500 kB\n")
    assert cpu_share(tmp_path) == 2
    assert free_memory(tmp_path, tmp_path / "meminfo") == 512_000
    assert free_memory(tmp_path, tmp_path / "absent") == 600_000
    (tmp_path / "old/cpu").mkdir(parents=True)
    (tmp_path / "old/cpu/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "old/cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cpu_share(tmp_path / "old") is None
    (tmp_path / "old/cpu/cpu.cfs_quota_us").write_text("50000\n")
    assert cpu_share(tmp_path / "old") == 1


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    source = photos_in(tmp_path / "photos", 1)
    for index in range(1, 200):
        (source / f"{index}.jpg").symlink_to(source / "0.jpg")
    options = ("-o", "cut", "--net", "lite-dwsep", "--runtime", "opencv")
    command = [sys.executable, "-m", "u2slim.app.main", "cut", "photos", *options]
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | THREADS, stdout=-3, stderr=-3)
    wait_for(lambda: len(list(tmp_path.glob("cut/cutouts/*.png"))) > 3 or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    for path in tmp_path.glob("cut/*/[0-9]*.png"):
        Image.open(path).load()  # whole
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cut/cutouts/*.png")}
    for index in range(20, 200):
        (source / f"{index}.jpg").unlink()
    left = {path for path in before if int(path.stem) < 20}
    assert f"20 of 20 photos done with opencv: cut ({len(left)} skipped" in cut("photos", *options, cwd=tmp_path)
    assert all(path.stat().st_mtime_ns == before[path] for path in left)
