"""Published files: found where they lie, or downloaded from a server on this machine."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from u2slim import download
from u2slim.errors import UserError
from u2slim.zoo import PUBLISHED, PublishedFile, open_net
from u2slim.zoo.fetch import NETS, fetch, find, record_of, rembg_dirs

ONNX, PTH = (random.Random(seed).randbytes(2_000_000) for seed in range(2))
PAGE = b"\n<!DOCTYPE html><title>Too many have asked for this file</title>"


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """The cache folder and rembg's, neither of which is there yet."""
    monkeypatch.setenv("U2SLIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "rembg"))
    return tmp_path / "cache", tmp_path / "rembg"


@pytest.fixture
def net(monkeypatch, server, folders):
    """U2-Net as two small files on the server: the ONNX file, and the `.pth` that is tried next."""
    contents = {"u2net.onnx": ONNX, "u2net.pth": PTH}
    server.files = dict(contents)
    files = (
        PublishedFile(name, server.url(name), len(content) / 1e6, hashlib.md5(content).hexdigest())
        for name, content in contents.items()
    )
    record = replace(PUBLISHED["u2net"], files=tuple(files))
    monkeypatch.setitem(PUBLISHED, "u2net", record)
    return record


def put(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_net_in_the_package_is_found_there(folders):
    assert find(PUBLISHED["u2netp"]) == fetch(PUBLISHED["u2netp"], onnx=True) == NETS / "u2netp.onnx"
    assert open_net("u2netp").path() == NETS / "u2netp.onnx"
    assert record_of(NETS / "u2netp.onnx") is PUBLISHED["u2netp"]
    assert not folders[0].exists()


@pytest.mark.parametrize(
    ("variables", "now", "before"),
    [
        ({}, "/home/me/.rembg", "/home/me/.u2net"),
        ({"REMBG_HOME": "~/theirs"}, "/home/me/theirs", "/home/me/.u2net"),
        ({"XDG_DATA_HOME": "/data"}, "/data/rembg", "/data/.u2net"),
        ({"XDG_DATA_HOME": "/data", "REMBG_HOME": "/theirs"}, "/theirs", "/data/.u2net"),
        ({"U2NET_HOME": "~/nets", "REMBG_HOME": "/theirs"}, "/home/me/nets", "/home/me/nets"),
    ],
)
def test_where_rembg_keeps_its_nets(monkeypatch, variables, now, before):
    """As rembg 2.0.86 does, and 2.0.69 did."""
    for name in ("U2NET_HOME", "REMBG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "/home/me"} | variables).items():
        monkeypatch.setenv(name, value)
    assert rembg_dirs("u2netp") == (Path(now, "models", "u2netp"), Path(before))


def test_files_that_lie_there_are_used_and_nothing_is_downloaded(net, folders, server):
    cache, rembg = folders
    assert find(net) is None
    pth = put(cache, "u2net.pth", PTH)
    assert fetch(net) == pth and find(net, onnx=True) is None
    for folder in (rembg, rembg / "models" / "u2net"):  # of its versions before, and of the newest
        theirs = put(folder, "u2net.onnx", ONNX)
        assert fetch(net) == fetch(net, onnx=True) == theirs, "an ONNX file comes first, wherever it is"
    ours = put(cache, "u2net.onnx", ONNX)
    assert fetch(net) == ours, "and the cache folder before rembg's"
    assert record_of(theirs) is net and record_of(put(cache, "other.onnx", b"other")) is None
    assert not server.ranges


def test_a_wrong_file_of_rembgs_is_passed_over_with_a_note(net, folders, server, capsys):
    cache, rembg = folders
    wrong = put(rembg, "u2net.onnx", ONNX[:-1])
    assert fetch(net) == cache / "u2net.onnx" and (cache / "u2net.onnx").read_bytes() == ONNX
    said = capsys.readouterr().err
    assert f"{wrong} (2.0 MB) is not the published file of 2 MB with MD5 {net.files[0].md5}; it is not used" in said
    assert len(server.ranges) == 1 and wrong.read_bytes() == ONNX[:-1]


def test_a_wrong_file_in_the_cache_is_an_error_that_says_to_delete_it(net, folders, server):
    damaged = bytearray(ONNX)
    damaged[-1000] ^= 1
    path = put(folders[0], "u2net.onnx", bytes(damaged))
    for open_it in (fetch, find, lambda net: open_net(net.name).runner()):
        with pytest.raises(UserError, match=r"u2net.onnx \(2.0 MB\) is not the published file .*Delete it"):
            open_it(net)
    assert path.read_bytes() == damaged and not server.ranges


def test_a_download_is_kept_and_asked_for_once(net, folders, server, capsys):
    cache, _ = folders
    assert fetch(net) == fetch(net) == cache / "u2net.onnx"
    assert server.ranges == [None] and names(cache) == ["u2net.onnx"]
    assert f"downloading u2net.onnx (2 MB) from {server.url('u2net.onnx')}" in capsys.readouterr().err


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_download_that_broke_off_goes_on_in_the_next_call(net, folders, server, monkeypatch, knows_ranges):
    cache, _ = folders
    net = replace(net, files=net.files[:1])
    server.breaks = [1_500_000]
    monkeypatch.setattr(download, "_RETRIES", 0)
    with pytest.raises(UserError, match="u2net could not be downloaded: .*received 1[0-9]{6} bytes"):
        fetch(net)
    (partial,) = cache.iterdir()
    received = partial.stat().st_size
    assert partial.suffix == ".part" and received > 1_000_000 and find(net) is None
    server.knows_ranges = knows_ranges
    server.ranges.clear()
    assert fetch(net).read_bytes() == ONNX and names(cache) == ["u2net.onnx"]
    assert f"bytes={received}-" in server.ranges
    assert (server.ranges[-1] is None) == (not knows_ranges), "the whole again where the rest is not to be had"


def test_a_broken_connection_is_taken_up_in_the_same_call(net, server):
    server.breaks = [1_500_000]
    assert fetch(net).read_bytes() == ONNX
    assert len(server.ranges) == 2 and server.ranges[1].startswith("bytes=1")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PAGE, "u2net.onnx sent a web page instead of u2net.onnx"),
        (ONNX[:-1], r"\(2.0 MB\) is not the published file of 2 MB"),
        (b"", r"\(0.0 MB\) is not the published file of 2 MB"),
        (None, "the server answers 404"),
    ],
)
def test_what_is_another_file_is_not_kept_and_the_next_address_is_tried(net, folders, server, content, reason):
    cache, _ = folders
    server.files = {"u2net.pth": PTH} | ({} if content is None else {"u2net.onnx": content})
    assert fetch(net) == cache / "u2net.pth" and names(cache) == ["u2net.pth"]
    with pytest.raises(UserError, match=f"u2net could not be downloaded: .*{reason}") as caught:
        fetch(net, onnx=True)
    assert "u2net.pth" not in str(caught.value), "where torch is not wanted"
    assert names(cache) == ["u2net.pth"]


def test_offline_ends_in_one_sentence_that_names_addresses_and_folder(net, folders, server, monkeypatch):
    cache, _ = folders
    monkeypatch.setattr(download, "_RETRIES", 0)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="u2net could not be downloaded: no connection to the server. ") as caught:
        open_net("u2net").net()
    for part in (*(f"{file.name} from {file.address}" for file in net.files), f"put it into {cache};"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value) and names(cache) == []


def test_a_folder_that_cannot_be_written_is_named(net, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("U2SLIM_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(UserError, match="file/cache/u2net.onnx cannot be written.*set U2SLIM_CACHE"):
        fetch(net)


def test_every_file_of_a_record_has_an_address_a_checksum_and_a_name_of_its_own():
    files = [file for record in PUBLISHED.values() for file in record.files]
    assert len({file.name for file in files}) == len({file.md5 for file in files}) == len(files) == 8
    for file in files:
        assert file.address.startswith("https://") and len(file.md5) == 32 and file.megabytes > 4
        assert file.name.endswith((".onnx", ".pth"))
    for record in PUBLISHED.values():
        assert record.files[0].is_onnx and record.files[0].name == f"{record.name}.onnx"
