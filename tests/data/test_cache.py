"""The cache of decoded, resized samples."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import REPO, SIZE, assert_same_samples, two_passes, write_set
from u2slim.data import dataset
from u2slim.data.cache import SquareCache
from u2slim.data.catalog import get_data_set
from u2slim.data.dataset import TrainStream
from u2slim.data.pairs import content_of, find_pairs
from u2slim.data.saliency_datamodule import SaliencyDataModule
from u2slim.errors import UserError

GENEROUS = 0.05  # gigabytes

# What other processes do to a cache that they get pickled: `work(cache, square)` with the code of a test.
OTHER_PROCESS = """
import pickle, sys
import numpy as np

def square(k):
    pixels = np.random.default_rng(k).integers(0, 256, (4, SIZE, SIZE), dtype=np.uint8)
    return pixels[:3].transpose(1, 2, 0), pixels[3]

def right(k):
    kept = cache.get(str(k))
    return kept is not None and all(np.array_equal(a, b) for a, b in zip(kept, square(k)))

cache = pickle.load(sys.stdin.buffer)
"""


def other_process(cache: SquareCache, code: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS.replace("SIZE", str(cache.size)) + code],
        cwd=REPO,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    process.stdin.write(pickle.dumps(cache))
    process.stdin.close()
    process.stdin = None
    return process


def printed(process: subprocess.Popen) -> str:
    try:
        return process.communicate(timeout=30)[0].decode().strip()
    finally:
        process.kill()


def square(k: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.random.default_rng(k).integers(0, 256, (4, size, size), dtype=np.uint8)
    return pixels[:3].transpose(1, 2, 0), pixels[3]


def is_right(cache: SquareCache, k: int) -> bool:
    kept = cache.get(str(k))
    return kept is not None and all(np.array_equal(a, b) for a, b in zip(kept, square(k, cache.size), strict=True))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_set(root / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 8)
    found = find_pairs(get_data_set("duts_tr"), root)
    return [replace(pair, content=content_of(pair)) for pair in found]


@pytest.fixture
def no_decoding(monkeypatch):
    def switch_off():
        monkeypatch.setattr(dataset, "load_square", lambda pair, size: pytest.fail(f"{pair.name} is decoded"))

    return switch_off


@pytest.mark.parametrize("workers", [0, 2])
def test_cached_samples_are_the_decoded_ones_bit_for_bit(pairs, tmp_path, no_decoding, workers):
    plain = two_passes(pairs)
    cache = SquareCache(tmp_path / "cache", SIZE, GENEROUS)
    assert_same_samples(two_passes(pairs, workers, cache), plain)
    no_decoding()
    assert_same_samples(two_passes(pairs, workers, cache), plain)
    assert_same_samples(two_passes(pairs, workers, SquareCache(tmp_path / "cache", SIZE, GENEROUS)), plain)


def test_a_process_that_has_used_the_cache_may_start_workers_and_go_on_using_it(pairs, tmp_path, no_decoding):
    plain = two_passes(pairs)
    cache = SquareCache(tmp_path / "cache", SIZE, GENEROUS)
    assert_same_samples(two_passes(pairs[:3], cache=cache), two_passes(pairs[:3]))
    assert_same_samples(two_passes(pairs, 2, cache), plain)
    no_decoding()
    assert_same_samples(two_passes(pairs, cache=cache), plain)


def test_a_forked_process_opens_the_cache_for_itself(tmp_path):
    cache = SquareCache(tmp_path / "cache", SIZE, GENEROUS)
    cache.put("0", *square(0))
    assert is_right(cache, 0)

    def child(answer):
        with cache._begin():
            readers = cache._open().readers()  # LMDB's own table: process, thread, state
        answer.put((os.getpid(), is_right(cache, 0), readers))

    fork = multiprocessing.get_context("fork")
    answer = fork.Queue()
    process = fork.Process(target=child, args=(answer,), daemon=True)
    process.start()
    pid, right, readers = answer.get(timeout=10)
    process.join(10)
    assert right and str(pid) in readers
    assert is_right(cache, 0)


def test_two_processes_fill_and_read_one_cache_at_once(tmp_path):
    cache = SquareCache(tmp_path / "cache", SIZE, GENEROUS)
    code = """
missing = 0
for k in np.random.default_rng(ORDER).permutation(np.tile(np.arange(300), 4)).tolist():
    if cache.get(str(k)) is None:
        missing += 1
        cache.put(str(k), *square(k))
    assert right(k), k
print("right", missing)
"""
    both = [other_process(cache, code.replace("ORDER", str(order))) for order in (1, 2)]
    answers = [printed(process).split() for process in both]
    assert [answer[0] for answer in answers] == ["right", "right"], answers
    made = [int(answer[1]) for answer in answers]
    assert 300 <= sum(made) < 600, made  # each found what the other had made
    assert all(is_right(cache, k) for k in range(300))


def test_the_cache_stays_below_its_bound_and_says_once_that_it_is_full(tmp_path, caplog):
    bound = 1_000_000
    cache = SquareCache(tmp_path / "cache", SIZE, bound / 1e9)
    for k in range(200):
        cache.put(str(k), *square(k))
    kept = [k for k in range(200) if cache.get(str(k)) is not None]
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= bound + 200_000  # with LMDB's locks
    assert (tmp_path / "cache" / "data.mdb").stat().st_size <= bound
    assert 60 <= len(kept) < 110 and kept == list(range(len(kept)))
    assert all(is_right(cache, k) for k in kept)
    assert caplog.text.count("takes no more samples") == 1


def test_the_stream_is_right_where_only_a_part_fits(pairs, tmp_path):
    cache = SquareCache(tmp_path / "cache", SIZE, 0.00006)
    assert_same_samples(two_passes(pairs, cache=cache), two_passes(pairs))
    assert 0 < sum(cache.get(pair.content) is not None for pair in pairs) < len(pairs)
    assert_same_samples(two_passes(pairs, 2, cache), two_passes(pairs))


def test_a_changed_file_is_decoded_anew(duts, tmp_path):
    def first_sample(cache):
        data = SaliencyDataModule(str(duts), ["duts_tr"], val_count=1, size=SIZE, cache=cache)
        data.setup()
        return TrainStream(data.train_pairs, SIZE, None, seed=0, cache=data.cache)[0]

    before = first_sample(str(tmp_path / "cache"))
    path = duts / "DUTS-TR" / "DUTS-TR-Mask" / f"{before['name'].split('/')[1]}.png"
    Image.fromarray(255 - np.array(Image.open(path))).save(path)
    after = first_sample(str(tmp_path / "cache"))
    assert after["name"] == before["name"] and torch.equal(after["image"], before["image"])
    assert not torch.equal(after["mask"], before["mask"])
    assert torch.equal(after["mask"], first_sample(None)["mask"])


def test_caches_of_two_sizes_share_a_folder(tmp_path):
    small, large = (SquareCache(tmp_path / "cache", size, GENEROUS) for size in (32, 64))
    for cache in (small, large):
        assert cache.get("1") is None
        cache.put("1", *square(1, cache.size))
    assert is_right(small, 1) and is_right(large, 1)


def test_what_the_cache_gives_is_the_callers_own(tmp_path):
    cache = SquareCache(tmp_path / "cache", SIZE, GENEROUS)
    cache.put("1", *square(1))
    for array in cache.get("1"):
        array[:] = 0
    assert is_right(cache, 1)


def test_a_second_cache_of_the_folder_in_one_process_may_have_another_bound(tmp_path):
    first = SquareCache(tmp_path / "cache", SIZE, 0.0005)
    for k in range(100):
        first.put(str(k), *square(k))
    assert first.get("99") is None
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    second = SquareCache(tmp_path / "link", SIZE, GENEROUS)
    second.put("99", *square(99))
    assert is_right(second, 99) and is_right(first, 99) and is_right(first, 0)
    third = SquareCache(tmp_path / "cache", SIZE, 0.0001)  # less than is there
    third.put("100", *square(100))
    assert third.get("100") is None and is_right(third, 99)


def test_a_cache_goes_on_where_another_process_has_a_larger_bound(tmp_path, caplog):
    cache = SquareCache(tmp_path / "cache", SIZE, 0.0005)
    cache.put("0", *square(0))
    process = other_process(cache, "cache.bytes *= 20\nfor k in range(1, 200): cache.put(str(k), *square(k))")
    assert printed(process) == ""
    assert is_right(cache, 0) and is_right(cache, 199)
    cache.put("200", *square(200))
    assert is_right(cache, 200) and not caplog.text


def test_a_killed_process_leaves_the_cache_whole(tmp_path):
    cache = SquareCache(tmp_path / "cache", SIZE, GENEROUS)
    for first in (0, 1000, 2000):
        process = other_process(
            cache, f"for k in range({first}, {first} + 1000): cache.put(str(k), *square(k)); print(k, flush=True)"
        )
        done = [int(process.stdout.readline()) for _ in range(20 + first // 300)]
        process.kill()
        process.wait(30)
        done += [int(line) for line in process.stdout.read().splitlines()]
        assert len(done) < 1000
        # In a process of its own, which may be ended should the killed one have left a lock behind.
        check = f"print(all(right(k) for k in {done}), cache.put('x', *square(0)), cache.get('x') is not None)"
        assert printed(other_process(cache, check)) == "True None True"
    assert all(is_right(cache, k) for k in done)


def test_a_damaged_square_is_noticed_and_replaced(pairs, tmp_path, no_decoding, caplog):
    cache = SquareCache(tmp_path / "cache", SIZE, GENEROUS)
    plain = two_passes(pairs)
    two_passes(pairs, cache=cache)
    image, _ = cache.get(pairs[5].content)
    with (tmp_path / "cache" / "data.mdb").open("r+b") as file:
        place = file.read().find(image.tobytes())
        assert place > 0
        file.seek(place + 1000)
        file.write(bytes(64))
    assert_same_samples(two_passes(pairs, cache=cache), plain)
    assert caplog.text.count("a damaged sample is made anew") == 1
    no_decoding()
    assert_same_samples(two_passes(pairs, cache=cache), plain)
    assert caplog.text.count("a damaged sample is made anew") == 1


def test_a_disk_that_is_full_ends_the_keeping_and_not_the_run(tmp_path):
    pytest.importorskip("resource")
    cache = SquareCache(tmp_path / "cache", SIZE, GENEROUS)
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
for k in range(200):
    cache.put(str(k), *square(k))
kept = [k for k in range(200) if cache.get(str(k)) is not None]
print(len(kept), all(right(k) for k in kept))
"""
    said, counted = printed(other_process(cache, code)).splitlines()
    assert "takes no more samples" in said
    assert 20 < int(counted.split()[0]) < 60 and counted.endswith("True")
    assert is_right(cache, 0)
    cache.put("200", *square(200))
    assert is_right(cache, 200)


def test_an_unusable_cache_says_what_to_do(tmp_path):
    def refused(match, folder="cache", gigabytes=GENEROUS):
        with pytest.raises(UserError, match=match) as refusal:
            SquareCache(tmp_path / folder, SIZE, gigabytes)
        assert "data.cache=null" in str(refusal.value)

    (tmp_path / "file").write_text("")
    refused(r"No cache of samples can be kept in \S*file .*choose another folder", "file")
    refused("No cache of samples can be kept in", "file/cache")
    for gigabytes in (0, -1):
        refused(f"data.cache_gb={gigabytes}: give a size above 0", gigabytes=gigabytes)
    refused("No cache of samples can be kept in", gigabytes=1e9)
    refused("No cache of samples can be kept in", gigabytes=1e12)

    cache = SquareCache(tmp_path / "cache", SIZE, GENEROUS)
    for k in range(50):
        cache.put(str(k), *square(k))
    whole = (tmp_path / "cache" / "data.mdb").read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "data.mdb").write_bytes(whole[: len(whole) // 2])
    refused("data.mdb is cut short.*delete it if it is damaged", "cut")
    (tmp_path / "cut" / "data.mdb").write_bytes(b"no data base" * 1000)
    refused("delete it if it is damaged", "cut")


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o500)
    try:
        (tmp_path / "cache" / "probe").write_text("")
    except OSError:
        with pytest.raises(UserError, match="choose another folder"):
            SquareCache(tmp_path / "cache", SIZE, GENEROUS)
    else:
        pytest.skip("this user may write everywhere")
