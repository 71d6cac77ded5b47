"""Pairs read in place from tar shards, local and remote."""

import gc
import gzip
import hashlib
import multiprocessing
import signal
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from tests.conftest import REPO, assert_same_samples, run, two_passes, write_set
from u2slim.data.catalog import get_data_set
from u2slim.data.dataset import load_pair
from u2slim.data.pairs import find_pairs, list_pairs
from u2slim.data.saliency_datamodule import SaliencyDataModule
from u2slim.errors import UserError
from u2slim.files import cache_dir


@contextmanager
def within(seconds: int):
    """A test that hangs fails."""

    def ring(*_):
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def no_hanging():
    with within(60):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eight DUTS-TR pairs in folders, two of them with odd names."""
    root = tmp_path_factory.mktemp("data")
    write_set(root / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 8)
    for old, new in {"0003": "holiday.v2.0003", "0005": "a.image"}.items():
        for path in (root / "DUTS-TR").glob(f"*/{old}.*"):
            path.rename(path.with_name(new + path.suffix))
    return root


def files(folder: Path) -> list[tuple[str, bytes]]:
    """The folder's files under the names that they have in shards, in their order."""
    return [
        (f"{path.stem}.{label}{path.suffix}", path.read_bytes())
        for label in ("image", "mask")
        for path in sorted((folder / "DUTS-TR" / f"DUTS-TR-{label.title()}").iterdir())
    ]


def tar(members: list[tuple[str, bytes]]) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def packed(folder) -> dict[str, bytes]:
    """Three shards of the folder's files in scrambled order, with other things between them."""
    members = [*files(folder), ("README.txt", b"not an image"), ("sub/notes.jpg", b"no label")]
    members = [members[i] for i in np.random.default_rng(0).permutation(len(members))]
    return {f"duts-tr-{i:02d}.tar": tar(members[i::3]) for i in range(3)}


def write(packed: dict[str, bytes], to: Path) -> Path:
    to.mkdir(parents=True, exist_ok=True)
    for name, data in packed.items():
        (to / name).write_bytes(data)
    return to


class Server:
    """Files behind HTTP. `ranges` is honest, or "ignored" (whole files are sent), or "none" (which it says)."""

    def __init__(self, files: dict[str, bytes]):
        self.files, self.ranges, self.status, self.gets = dict(files), "honest", 200, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.do_GET(body=False)

            def do_GET(self, body=True):
                name = self.path.strip("/")
                links = "".join(f'<a href="{name}">{name}</a>' for name in server.files)
                data = server.files.get(name) if name else links.encode()
                status = 404 if data is None else server.status
                data = data or b""
                headers = {"ETag": hashlib.sha256(data).hexdigest()}
                wanted = self.headers.get("Range")
                if server.ranges == "none":
                    headers["Accept-Ranges"] = "none"
                elif server.ranges == "honest" and wanted and status == 200:
                    first, last = map(int, wanted.removeprefix("bytes=").split("-"))
                    headers["Content-Range"] = f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
                    status, data = 206, data[first : last + 1]
                self.send_response(status)
                for header, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(header, value)
                self.end_headers()
                if body:
                    server.gets.append(name)
                    self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(packed):
    server = Server(packed)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def expected(folder) -> list[dict]:
    return two_passes(find_pairs(get_data_set("duts_tr"), folder))


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_give_the_folders_stream_bit_for_bit(packed, folder, expected, tmp_path, workers):
    root = write(packed, tmp_path)
    for pairs in (
        find_pairs(get_data_set("duts_tr"), root),
        find_pairs(get_data_set("duts_tr"), "nowhere", f"{root}/duts-tr-*.tar"),
    ):
        assert [pair.name for pair in pairs] == [pair.name for pair in find_pairs(get_data_set("duts_tr"), folder)]
        assert_same_samples(two_passes(pairs, workers), expected)


def test_shards_in_memory_give_the_folders_stream(packed, expected):
    for name, data in packed.items():
        fsspec.filesystem("memory").pipe(f"/shards/{name}", data)
    assert_same_samples(two_passes(find_pairs(get_data_set("duts_tr"), "memory://shards")), expected)
    assert_same_samples(
        two_passes(find_pairs(get_data_set("duts_tr"), ".", [f"memory://shards/{name}" for name in packed])), expected
    )


def test_shards_behind_http_give_the_folders_stream_to_workers_of_a_process_that_has_read_them(server, expected):
    pairs = find_pairs(get_data_set("duts_tr"), server.url)  # which opens connections here
    assert_same_samples(two_passes(pairs), expected)
    for _ in range(2):
        assert_same_samples(two_passes(pairs, workers=2), expected)
    assert_same_samples(two_passes(pairs), expected)


def test_a_process_goes_on_reading_after_a_forked_one_has_read_and_ended(server):
    member = find_pairs(get_data_set("duts_tr"), server.url)[0].image
    data = member.read_bytes()

    def child(answer):
        right = [member.read_bytes() == data for _ in range(3)]
        gc.collect()  # what is left of the parent's connections here
        answer.put(all(right))

    fork = multiprocessing.get_context("fork")
    for _ in range(3):
        answer = fork.Queue()
        process = fork.Process(target=child, args=(answer,), daemon=True)
        process.start()
        assert answer.get(timeout=10)
        process.join(10)
        assert process.exitcode == 0
        with within(10):
            assert member.read_bytes() == data


def test_the_index_of_a_remote_shard_is_kept_until_the_shard_changes(server, packed, folder):
    def names():
        server.gets.clear()
        return [pair.name for pair in list_pairs(get_data_set("duts_tr"), ".", f"{server.url}/all.tar").pairs]

    before = [pair.name for pair in find_pairs(get_data_set("duts_tr"), folder)]
    server.files["all.tar"] = tar(files(folder))
    assert names() == before and "all.tar" in server.gets
    assert names() == before and not server.gets
    server.files["all.tar"] = tar([(f"x{name[1:]}", data) for name, data in files(folder)])  # of the same size
    after = sorted(f"x{name[1:]}" for name in before)
    assert names() == after and "all.tar" in server.gets
    assert names() == after and not server.gets
    for path in (cache_dir() / "shards").iterdir():
        path.write_bytes(b"")
    assert names() == after


def test_remote_shards_are_listed_where_their_index_cannot_be_kept(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("U2SLIM_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        assert len(list_pairs(get_data_set("duts_tr"), server.url).pairs) == 8


def test_a_server_that_ignores_ranges_is_refused_and_never_misread(server):
    server.ranges = "ignored"
    listing = list_pairs(get_data_set("duts_tr"), ".", f"{server.url}/duts-tr-*.tar")
    assert len(listing.pairs) == 8
    with pytest.raises(UserError, match=r"duts-tr-\d+\.tar:\S+ cannot be read \(the server sends the whole shard"):
        load_pair(listing.pairs[0])


def test_a_server_that_says_it_has_no_ranges_is_refused(server):
    server.ranges = "none"
    with pytest.raises(UserError, match=r"The shard http\S+duts-tr-00.tar cannot be read"):
        list_pairs(get_data_set("duts_tr"), ".", f"{server.url}/duts-tr-*.tar")


def test_a_server_that_fails_later_is_named_with_what_it_said(server):
    pair = find_pairs(get_data_set("duts_tr"), server.url)[0]
    server.status = 503
    with pytest.raises(UserError, match=r"duts-tr-\d+\.tar:\S+ cannot be read \(ClientResponseError: 503"):
        load_pair(pair)
    server.files.clear()
    with pytest.raises(UserError, match=r"duts-tr-\d+\.tar:\S+ cannot be read \(FileNotFoundError"):
        load_pair(pair)
    with pytest.raises(UserError, match=r"The shard http\S+duts-tr-00.tar cannot be read \(FileNotFoundError"):
        list_pairs(get_data_set("duts_tr"), ".", f"{server.url}/duts-tr-00.tar")
    with pytest.raises(UserError, match=r"The shard http\S+ cannot be read"):
        list_pairs(get_data_set("duts_tr"), ".", "http://127.0.0.1:9/duts-tr-00.tar")


def test_the_datamodule_trains_from_an_address(server, expected, tmp_path):
    data = SaliencyDataModule(
        str(tmp_path), ["duts_tr"], shards={"duts_tr": f"{server.url}/duts-tr-*.tar"}, val_count=1
    )
    data.setup()
    assert len(data.train_pairs) == 7 and len(data.val_pairs) == 1
    pairs = sorted(data.train_pairs + data.val_pairs, key=lambda pair: pair.name)
    assert_same_samples(two_passes(pairs, workers=2), expected)


def test_the_config_of_shards_finds_them_under_the_root_and_goes_on_without_a_set(packed, tmp_path, caplog):
    root = write(packed, tmp_path / "some place")
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        cfg = compose("train", ["data=duts_shards", f'data.root="{root}"', "data.manifest=null", "seed=0"])
        data = instantiate(cfg.data, augment=None)
    data.setup()
    assert len(data.train_pairs) + len(data.val_pairs) == 8
    assert "DUTS-TE is not under" in caplog.text


def broken_shards(whole: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=BytesIO(whole)) as file:
        second, third = file.getmembers()[1:3]
    return {
        "an empty file": b"",
        "no tar": b"<html>Please sign in</html>" * 100,
        "compressed": gzip.compress(whole),
        "cut within a member": whole[: third.offset_data + 100],
        "cut within a header": whole[: third.offset + 100],
        "cut between members": whole[: third.offset],
        "cut before its end mark": whole.rstrip(b"\0") + bytes(-len(whole.rstrip(b"\0")) % 512),
        "a damaged header": whole[: third.offset] + b"\xff" * 512 + whole[third.offset + 512 :],
        "a part missing": whole[: second.offset_data] + whole[second.offset_data + 1000 :],
    }


def test_a_shard_that_is_not_whole_is_named(packed, server, tmp_path):
    whole = packed["duts-tr-01.tar"]
    for kind, data in broken_shards(whole).items():
        root = write({**packed, "duts-tr-01.tar": data}, tmp_path)
        server.files["duts-tr-01.tar"] = data
        for place in (root, server.url):
            try:
                list_pairs(get_data_set("duts_tr"), place)
            except UserError as error:
                assert f"The shard {place}/duts-tr-01.tar cannot be read" in str(error), kind
                assert "whole, uncompressed tar" in str(error), kind
            else:
                pytest.fail(f"{kind} ({place}) is taken for a shard")


def test_a_shard_that_is_named_must_be_there(packed, tmp_path):
    root = write(packed, tmp_path)
    (root / "duts-tr-02.tar").unlink()
    with pytest.raises(UserError, match=r"The shard \S+duts-tr-02.tar cannot be read"):
        list_pairs(get_data_set("duts_tr"), root, [f"{root}/{name}" for name in packed])
    assert list_pairs(get_data_set("duts_tr"), root, f"{root}/other-*.tar") is None


def test_a_shard_that_shrinks_after_the_start_is_named(packed, tmp_path):
    root = write(packed, tmp_path)
    pairs = find_pairs(get_data_set("duts_tr"), root)
    last = max((m for p in pairs for m in (p.image, p.mask) if m.shard.endswith("00.tar")), key=lambda m: m.offset)
    pair = next(pair for pair in pairs if last in (pair.image, pair.mask))
    with (root / "duts-tr-00.tar").open("r+b") as file:
        file.truncate(last.offset + 10)
    with pytest.raises(UserError, match=rf"00.tar:{last.name} cannot be read \(10 of {last.size} bytes: .* cut short"):
        load_pair(pair)


def test_members_without_a_partner_and_with_a_doubled_name_are_named(folder, tmp_path):
    members = dict(files(folder))
    image, mask = members.pop("0000.mask.png"), members.pop("0001.image.jpg")
    assert image and mask
    root = write({"duts-tr-0.tar": tar([*members.items()])}, tmp_path)
    write({"duts-tr-1.tar": tar([("more/0002.image.jpg", members["0002.image.jpg"])])}, tmp_path)
    listing = list_pairs(get_data_set("duts_tr"), root)
    assert [(problem.name, problem.kind) for problem in listing.problems] == [
        ("0000", "no mask"),
        ("0002", "doubled name"),
    ]
    assert listing.problems[0].text == f"{root}/duts-tr-0.tar:0000.image.jpg has no mask"
    assert f"{root}/duts-tr-1.tar:more/0002.image.jpg" in listing.problems[1].text
    assert [(problem.name, problem.kind) for problem in listing.extra] == [("0001", "no image")]
    assert len(listing.pairs) == 5


def test_the_real_shards_are_read_in_place(real):
    places = sorted(real.glob("duts-tr-*.tar"))
    if not places:
        pytest.skip("no DUTS-TR shards among the real data")
    listing = list_pairs(get_data_set("duts_tr"), real)
    assert len(listing.pairs) == 10_553 and not listing.problems and not listing.extra
    by_name = {pair.name: pair for pair in listing.pairs}
    with tarfile.open(places[-1]) as file:
        for info in [info for info in file.getmembers() if ".image." in info.name][::1000]:
            name, _, extension = info.name.partition(".image.")
            image, mask = load_pair(by_name[name])
            kept = [Image.open(file.extractfile(f"{name}.{label}.{extension}")) for label in ("image", "mask")]
            assert np.array_equal(image, kept[0].convert("RGB"))
            values = np.array(kept[1].convert("L"))
            assert np.array_equal(mask, values if values.max() in (0, 255) else np.rint(values * (255 / values.max())))


@pytest.mark.slow
def test_training_runs_from_the_real_shards(real, tmp_path):
    options = ("data=duts_shards", f"data.root={real}", "data.size=64", "model.width=lite", "trainer=cpu")
    printed = run("train.py", *options, "trainer.max_steps=3", "data.batch_size=4", cwd=tmp_path)
    assert "DUTS-TE is not under" in printed and "DUTS-TR: opening 10553 pairs" in printed


def test_a_remote_shard_that_has_changed_is_checked_anew(server, folder, tmp_path):
    def contents():
        data = SaliencyDataModule(str(tmp_path), ["duts_tr"], shards={"duts_tr": f"{server.url}/all.tar"}, val_count=1)
        data.setup()
        return {pair.name: pair.content for pair in data.train_pairs + data.val_pairs}

    members = files(folder)
    server.files["all.tar"] = tar(members)
    before = contents()
    name, photo = members[0]
    server.files["all.tar"] = tar([(name, photo + b"\0"), *members[1:]])  # the same places, the same size
    after = contents()
    assert after[name.split(".")[0]] != before[name.split(".")[0]]
    assert sum(after[name] != before[name] for name in before) == 1
