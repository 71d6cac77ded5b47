"""The page that cuts photos out in the browser: it makes what `u2slim cut` makes, and needs nobody for it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import u2slim
from tests.browser import Host, browser
from tests.conftest import REPO
from u2slim.data.sample import render

pytestmark = pytest.mark.slow  # it is built anew, from packages that npm brings
NET = "lite-l"
SECONDS = 60_000  # in ms, of what is quick on an idle machine
# The processor plays a graphics card.
CARD = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--ignore-gpu-blocklist",
)


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """A copy of what the page is built of, with what npm brings."""
    if not shutil.which("npm"):
        pytest.skip("no npm: install Node.js from 20 on")
    root = tmp_path_factory.mktemp("build")
    ignored = shutil.ignore_patterns("node_modules")
    shutil.copytree(REPO / "web", root / "web", ignore=ignored)
    for name in ("LICENSE", "NOTICE", "src/u2slim/app/page.html", f"src/u2slim/nets/{NET}.onnx"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, root / name)
    subprocess.run(["npm", "ci"], cwd=root / "web", check=True, capture_output=True)
    return root


def run_build(build: Path, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(["node", "web/build.mjs", *map(str, arguments)], cwd=build, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(build) -> Path:
    done = run_build(build)
    assert done.returncode == 0, done.stderr
    assert "any static host serves it" in done.stdout
    return build / "dist" / "web"


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    with browser(*CARD) as started:
        yield started


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """A JPEG, one that is stored lying on its side, one whose colours have a profile, a PNG with transparency."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / name for name in ("plain.jpg", "turned.jpg", "gray.png", "clear.png")]
    pictures = [Image.fromarray(render(3, index)[0]).resize((640, 480)) for index in range(4)]
    pictures[0].save(paths[0], quality=92)
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures[1].save(paths[1], quality=92, exif=exif)
    pictures[2].convert("L").save(paths[2])
    pictures[3].putalpha(Image.linear_gradient("L").resize((640, 480)))
    pictures[3].save(paths[3])
    return paths


def opened(page, url: str) -> str:
    """Wait until the net is there; what the page says then."""
    from playwright.sync_api import expect

    page.goto(url)
    expect(page.locator("#status")).to_have_text(re.compile("^Ready"), timeout=SECONDS)
    return page.inner_text("#status")


def cut(page, *photos: Path, done: int | None = None) -> list[str]:
    """Choose photos; what is said of each."""

    page.set_input_files("#files", photos)
    return said(page, f"{len(photos) if done is None else done} of {len(photos)} cut out.")


def said(page, status: str) -> list[str]:
    from playwright.sync_api import expect

    expect(page.locator("#status")).to_have_text(status, timeout=SECONDS)
    return page.locator(".told").all_inner_texts()


def downloaded(page, number: int, folder: Path) -> Path:
    with page.expect_download() as download:
        page.locator("a.button").nth(number).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_masks_are_those_of_the_command(site, chromium, photos, tmp_path):
    with Host.serving(site) as host, chromium.new_page() as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        assert opened(page, host.url) == f"Ready, with {page.evaluate('navigator.hardwareConcurrency')} threads."
        assert page.evaluate("crossOriginIsolated")
        assert sum(host.sent.values()) < 6e6
        assert not [name for name in host.sent if "webgpu" in name]
        told = cut(page, *photos)
        for number, photo in enumerate(photos):
            expected = u2slim.cut_out(photo, NET)
            path = downloaded(page, number, tmp_path)
            assert path.name == f"{photo.stem}-cut.png"
            made = np.asarray(Image.open(path)).astype(int)
            assert made.shape == expected.rgba.shape
            assert (abs(made[..., 3] - expected.alpha) <= 2).mean() >= 0.99, photo.name
            solid = expected.alpha > 250
            assert abs(made - expected.rgba)[solid].max(initial=0) <= 4, photo.name
            if expected.box is None:
                assert told[number] == "No subject found."
            else:
                assert abs(float(told[number].split()[0]) - 100 * expected.confidence) <= 1
        assert all(url.startswith((host.url, f"blob:{host.url}")) for url in asked)


def test_it_works_without_a_network_and_says_what_is_no_photo(site, chromium, photos, tmp_path):
    with chromium.new_context() as context, context.new_page() as page:
        with Host.serving(site) as host:
            opened(page, host.url)
        context.set_offline(True)
        page.reload()
        opened(page, host.url)
        broken = tmp_path / "broken.jpg"
        broken.write_bytes(photos[0].read_bytes()[:300])
        told = cut(page, broken, photos[0], REPO / "README.md", done=1)
        assert told[0] == told[2] == "This is no image that this browser can read; save it as JPEG or PNG."
        assert told[1].endswith("sure") or "look at it" in told[1]
        assert page.locator("a.button:visible").count() == 1


def test_backgrounds_formats_and_crop(site, chromium, photos, tmp_path):
    expected = u2slim.cut_out(photos[0], NET)
    with Host.serving(site) as host, chromium.new_page() as page:
        opened(page, host.url)
        cut(page, photos[0])
        page.select_option("#background", "white")
        said(page, "1 of 1 cut out.")
        page.wait_for_timeout(100)
        white = np.asarray(Image.open(downloaded(page, 0, tmp_path)).convert("RGB")).astype(int)
        assert abs(white - expected.on("white")).max() <= 4
        page.select_option("#background", "blur")
        page.wait_for_timeout(100)
        said(page, "1 of 1 cut out.")
        blurred = np.asarray(Image.open(downloaded(page, 0, tmp_path)).convert("RGB")).astype(int)
        assert abs(blurred - expected.on("blur")).mean() < 3
        page.select_option("#background", "")
        page.select_option("#format", "webp")
        page.check("#crop")
        page.wait_for_timeout(100)
        said(page, "1 of 1 cut out.")
        path = downloaded(page, 0, tmp_path)
        assert path.name == "plain-cut.webp"
        left, top, right, bottom = expected.box
        with Image.open(path) as picture:
            assert np.abs(np.subtract(picture.size, (right - left, bottom - top))).max() <= 1


def test_one_thread_does_where_no_service_worker_may_run(site, chromium, photos):
    with Host.serving(site) as host, chromium.new_context(service_workers="block") as context:
        page = context.new_page()
        assert opened(page, host.url) == "Ready, with 1 thread."
        assert "sure" in cut(page, photos[0])[0]


def small_net(path: Path, channels: int) -> Path:
    """A net that has a 3x3 convolution of so many channels."""
    numbers = np.random.default_rng(1)
    shapes = {"a": (channels, 3, 1, 1), "b": (20, channels, 3, 3), "c": (1, 20, 1, 1)}
    weights = {name: numbers.normal(0, np.prod(shape[1:]) ** -0.5, shape) for name, shape in shapes.items()}
    weights["a"] /= 64
    nodes = [
        helper.make_node("Conv", ["image", "a"], ["x"]),
        helper.make_node("Conv", ["x", "b"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["y", "c"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["mask"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 64, 64])]
    outputs = [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, 64, 64])]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "small", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_graphics_card_that_computes_wrongly_is_found_out(build, chromium, photos, tmp_path):
    """Of 18 channels onnxruntime-web 1.30 makes something else on every card (web/check.js)."""
    for channels, ending in ((18, "leave it out."), (16, "found.")):
        site = tmp_path / str(channels)
        assert run_build(build, small_net(tmp_path / f"{channels}.onnx", channels), site).returncode == 0
        with Host.serving(site) as host, chromium.new_page() as page:
            page.set_default_timeout(2 * SECONDS)
            opened(page, host.url)
            if not page.locator("#gpu").count():
                pytest.skip("this Chromium has no SwiftShader, which could play a graphics card")
            page.check("#gpu")
            page.set_input_files("#files", photos[0])
            page.locator(".told", has_text=re.compile(f"(sure.*|{re.escape(ending)})$")).wait_for()
            assert page.locator(".told.bad").count() == (channels == 18)
            assert any("webgpu" in name for name in host.sent)


def test_a_net_that_does_not_fit_is_refused(build, tmp_path):
    other = tmp_path / "other.onnx"
    shutil.copy(REPO / "src" / "u2slim" / "nets" / "u2netp.onnx", other)
    for net, sentence in (
        (other, "give a net with the preprocessing inside and a fixed size"),
        (REPO / "README.md", "cannot be run by onnxruntime-web"),
        (tmp_path / "absent.onnx", "cannot be read"),
    ):
        done = run_build(build, net, tmp_path / "out")
        assert done.returncode == 1
        assert sentence in done.stderr
        assert not (tmp_path / "out").exists()
