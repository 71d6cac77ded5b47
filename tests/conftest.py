"""Shared pieces of the tests: small data in published layouts, random published weights, the real data."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tests.forked import run_forked
from tests.local_server import Server
from u2slim.data.cache import SquareCache
from u2slim.data.dataset import StreamSampler, TrainStream
from u2slim.data.pairs import Pair
from u2slim.data.sample import render
from u2slim.data.transforms import u2net
from u2slim.models import Net, U2Net

REPO = Path(__file__).parent.parent


def real_data() -> Path | None:
    """The folder of real data and weights, where this machine has one."""
    root = Path(os.environ.get("U2SLIM_DATA", REPO.parent / "shared" / "data"))
    return root if (root / "weights" / "u2netp.pth").is_file() else None


@pytest.fixture(scope="session")
def real() -> Path:
    root = real_data()
    if root is None:
        pytest.skip("real data absent: set U2SLIM_DATA to a folder with ecssd/, official/ and weights/u2netp.pth")
    return root


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> None:
    """What is remembered between runs stays out of the user's cache folder, and nets of rembg's play no part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("U2SLIM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("U2NET_HOME", str(tmp_path_factory.mktemp("rembg")))
        yield


def write_set(folder: Path, images: str, masks: str, count: int, first: int = 0) -> None:
    """`count` rendered pairs as JPEG and PNG files in one published layout."""
    (folder / images).mkdir(parents=True, exist_ok=True)
    (folder / masks).mkdir(parents=True, exist_ok=True)
    for index in range(first, first + count):
        image, mask = render(7, index)
        Image.fromarray(image).save(folder / images / f"{index:04d}.jpg", quality=95)
        Image.fromarray(mask).save(folder / masks / f"{index:04d}.png")


@pytest.fixture
def duts(tmp_path: Path) -> Path:
    """A data root with eight DUTS-TR and four DUTS-TE pairs."""
    root = tmp_path / "data"
    write_set(root / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 8)
    write_set(root / "DUTS-TE", "DUTS-TE-Image", "DUTS-TE-Mask", 4, first=8)
    return root


def random_net(width: str = "lite", **options) -> U2Net:
    """A net whose every tensor is random, running statistics included, so that nothing agrees by default."""
    torch.manual_seed(1)
    return randomised(U2Net(width, **options))


def randomised(net: Net) -> Net:
    """The same net, filled so, in evaluation mode."""
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "running_var" in name else torch.randn_like(tensor) * 0.1)
    return net.eval()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A file in the published lite net's layout, filled at random."""
    state = random_net().state_dict()
    path = tmp_path / "u2netp.pth"
    torch.save({official: state[ours] for official, ours in U2Net.published_keys().items()}, path)
    return path


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


THREADS = {"OMP_NUM_THREADS": "1"}  # another number adds in another order: other bits


def run(door: str, *overrides: str, cwd: Path, ok: bool = True) -> str:
    """Run a command-line door, `train.py` or `u2slim.data.doctor`, in a process of its own; returns what it printed."""
    command = [str(REPO / door) if door.endswith(".py") else door, *overrides]
    env = os.environ | {"COLUMNS": "160", "PYTHONPATH": str(REPO / "src")} | THREADS
    status, out, err = run_forked(command, cwd, env, timeout=600)
    printed = out + err
    assert (status == 0) == ok, printed
    return printed


def cut(*arguments: object, cwd: Path, ok: bool = True) -> str:
    """Run `u2slim cut` in a process of its own; returns what it printed."""
    return run("u2slim.app.main", "cut", *map(str, arguments), cwd=cwd, ok=ok)


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    """The processes that a process has started (on Linux)."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if parent(path) == pid]


def parent(stat: Path) -> int:
    with suppress(OSError):  # it may end meanwhile
        return int(stat.read_text().rpartition(")")[2].split()[1])
    return 0


TINY = (
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.log_every_n_steps=1",
    "model.width=lite",
    "data.size=64",
    "data.batch_size=2",
    "data.num_workers=0",
)


SIZE = 48  # pixels: the side of the squares of `two_passes`


def two_passes(pairs: list[Pair], workers: int = 0, cache: SquareCache | None = None) -> list[dict]:
    """The stream's first samples in batches of four, each of eight pairs twice, augmented."""
    stream = TrainStream(pairs, SIZE, u2net(SIZE - 8), seed=0, cache=cache)
    loader = DataLoader(stream, num_workers=workers, batch_sampler=StreamSampler(4, 4), timeout=30 * (workers > 0))
    return list(loader)


def assert_same_samples(left: list[dict], right: list[dict]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a["name"] == b["name"] and torch.equal(a["image"], b["image"]) and torch.equal(a["mask"], b["mask"])


def gray(height: int, width: int) -> np.ndarray:
    return np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)
