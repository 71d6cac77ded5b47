"""Cutting out very many photos: shards, the manifest, photos and results in stores, and Ray."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from tests.conftest import REPO, THREADS, parent, wait_for
from u2slim.app.main import main
from u2slim.cutout import batch, manifest
from u2slim.cutout.batch import cut_all
from u2slim.cutout.cutter import Cutter
from u2slim.cutout.manifest import Manifest, Shard
from u2slim.data.sample import render
from u2slim.images.photos import keys_below
from u2slim.remote import NotWritten, RemoteFile
from u2slim.runtime import onnx_runner
from u2slim.zoo import SHIPPED

NET = ("--net", "lite-dwsep", "--runtime", "opencv")


def encoded(index: int = 1) -> bytes:
    file = BytesIO()
    Image.fromarray(render(3, index)[0][:64, :96]).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def store() -> Iterator[MemoryFileSystem]:
    """An empty store at memory://."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


@pytest.fixture
def album(tmp_path: Path, monkeypatch) -> Path:
    """Five photos in the working folder's `album`, one of them in a folder below it."""
    monkeypatch.chdir(tmp_path)
    for index in range(5):
        path = tmp_path / "album" / ("" if index < 4 else "below") / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(index))
    return tmp_path / "album"


def cut(*words: object) -> int:
    return main(["cut", *map(str, words), *NET])


def lines(folder: Path) -> list[dict]:
    """What all runs have written down, in their order."""
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.png")}


def test_shards_are_disjoint_whole_and_stable(album):
    photos = list(album.rglob("*.jpg"))
    keys = keys_below([album], photos)
    assert set(keys.values()) == {*"0123", "below/4"}
    found = [{key for key in keys.values() if Shard(index, 3).has(key)} for index in (1, 2, 3)]
    assert sum(map(len, found)) == 5 and set.union(*found) == set(keys.values())
    for name in ("0.png", "9.jpg", "below/0.jpg"):  # of which the first makes the result of 0.jpg a longer name
        (album / name).write_bytes(encoded())
    more = keys_below(["album"], Path("album").rglob("*.jpg"))  # named otherwise
    assert {photo.as_posix(): key for photo, key in more.items()}["album/0.jpg"] == "0"
    assert [{key for key in keys.values() if Shard(index, 3).has(key)} for index in (1, 2, 3)] == found
    of_many = Counter(index for n in range(4000) for index in range(1, 5) if Shard(index, 4).has(f"a/{n:06d}"))
    assert of_many.total() == 4000 and min(of_many.values()) > 900


def test_two_machines_write_their_shards_into_one_folder_at_once(album, capsys):
    words = [sys.executable, "-m", "u2slim.app.main", "cut", "album", "-o", "out", *NET]
    env = os.environ | THREADS | {"PYTHONPATH": str(REPO / "src")}
    running = [subprocess.Popen([*words, "--shard", f"{index}/2"], env=env, stdout=-3, stderr=-3) for index in (1, 2)]
    assert [one.wait(timeout=120) for one in running] == [0, 0]
    assert names(Path("out/masks")) == names(Path("out/cutouts")) == {*"0123", "below/4"}
    told = [line for line in lines(Path("out/manifest")) if "name" in line]
    assert Counter(line["name"] for line in told) == Counter([*"0123", "below/4"])
    assert {line["status"] for line in told} == {"done"}
    for shard in ("1/2", "2/2"):
        assert cut("album", "-o", "out", "--shard", shard) == 0
        assert "skipped, already done" in capsys.readouterr().out
    assert cut("album", "-o", "out") == 0  # all of them, by the same manifest
    assert "5 of 5 photos done with opencv: out (5 skipped" in capsys.readouterr().out
    (album / "below").rename("two")
    assert cut("two", "-o", "out", "--shard", "9/9") == 0
    assert "shard 9/9 has none of the 1 photo: nothing to do" in capsys.readouterr().err


def test_only_what_has_changed_failed_or_would_look_otherwise_is_done_again(album, capsys):
    (album / "broken.jpg").write_bytes(encoded()[:500])

    def done_now(*words: str, status: int = 1) -> int:
        capsys.readouterr()
        before = len(lines(Path("out/manifest")))
        assert cut("album", "-o", "out", *words) == status
        return len([line for line in lines(Path("out/manifest"))[before:] if line.get("status") == "done"])

    assert done_now("--manifest") == 5
    (why,) = (line["reason"] for line in lines(Path("out/manifest")) if line.get("status") == "failed")
    assert why.startswith("album/broken.jpg cannot be read (")
    assert done_now() == 0, "the folder has a manifest"
    Path("out/masks/1.png").unlink()
    assert done_now() == 0, "nobody looks at results"
    (album / "2.jpg").write_bytes(encoded(5))
    (album / "broken.jpg").write_bytes(encoded())
    assert done_now(status=0) == 2
    assert done_now("--background", "red", status=0) == 6
    assert done_now("--mask", "only", status=0) == 6
    assert done_now("--mask", "only", status=0) == 0
    assert done_now("--mask", "only", "--redo", status=0) == 6 and Path("out/masks/1.png").is_file()


def test_a_manifest_survives_a_kill(album, capsys):
    assert cut("album", "-o", "out", "--manifest") == 0
    (path,) = Path("out/manifest").iterdir()
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join(text[:4]) + text[4][:30])  # as if it had ended while it wrote the fourth photo's line
    assert cut("album", "-o", "out") == 0
    assert "5 of 5 photos done with opencv: out (3 skipped" in capsys.readouterr().out
    path.write_bytes(b"\xff\0{}\n[]\n1\n" + path.read_bytes())
    assert cut("album", "-o", "out") == 0
    assert "(5 skipped" in capsys.readouterr().out


def test_photos_and_results_in_a_store(store, album, capsys):
    for path in ("a.jpg", "b/Ü 写 #?%.jpg", "b/c/d.jpg", ".hidden/e.jpg", "notes.txt", "line\nline.jpg"):
        store.pipe_file(f"/photos/{path}", encoded())
    store.pipe_file("/photos/broken.jpg", encoded()[:500])
    assert cut("memory://photos", "-o", "memory://out", "--json") == 1
    printed = capsys.readouterr()
    told = {line["photo"]: line for line in map(json.loads, printed.out.splitlines())}
    assert len(told) == 5 and "cannot be read" in told["memory:///photos/broken.jpg"]["error"]
    assert "passed over, as no photos: 1 .txt" in printed.err and "4 of 5 photos done" in printed.err
    assert told["memory:///photos/a.jpg"]["files"] == ["memory:///out/masks/a.png", "memory:///out/cutouts/a.png"]
    assert cut("memory://photos/a.jpg", "-o", "here/") == 0  # in a folder of this machine
    for kind in ("masks", "cutouts"):
        expected = {f"/out/{kind}/{name}.png" for name in ("a", "b/Ü 写 #?%", "b/c/d", "line\nline")}
        assert set(store.find(f"/out/{kind}")) == expected
        for path in expected:
            assert store.cat_file(path) == Path(f"here/{kind}/a.png").read_bytes()
    assert cut("album", "-o", "memory://theirs", "--mask", "only") == 0
    assert len(store.find("/theirs/masks")) == 5 and not store.exists("/theirs/cutouts")
    store.rm("/photos/broken.jpg")
    store.pipe_file("/photos/a.jpg", encoded(2))
    capsys.readouterr()
    assert cut("memory://photos", "-o", "memory://out") == 0
    assert "4 of 4 photos done with opencv: memory:///out (3 skipped" in capsys.readouterr().out
    assert cut("memory://photos/b/*/*.jpg", "-o", "memory://one.png", "--mask", "also") == 0
    assert store.exists("/one.png") and store.exists("/one-mask.png")


def test_results_in_a_store_are_no_photos_and_overwrite_none(store, album, capsys):
    store.pipe_file("/b/photos/a.png", encoded())
    for _ in range(2):
        assert cut("memory://b", "-o", "memory://b/photos") == 0
    assert "1 of 1 photo done with opencv: memory:///b/photos (1 skipped" in capsys.readouterr().out
    assert cut("memory://b/photos/a.png", "-o", "memory://b/photos/a.png") == 1
    assert "would overwrite the photo memory:///b/photos/a.png" in capsys.readouterr().err
    store.pipe_file("/odd/x/../../../etc/a.jpg", encoded())
    store.pipe_file("/odd/x//a.jpg", encoded())
    store.pipe_file("/odd/b.jpg", encoded())
    assert cut("memory://odd", "-o", "odd") == 1
    assert capsys.readouterr().err.count("cannot have a name with an empty part, . or .. in it") == 2
    assert names(Path("odd")) == {"masks/b", "cutouts/b"}
    store.rm("/odd/b.jpg")
    assert cut("memory://odd", "-o", "none") == 1
    assert "0 of 0 photos done" in capsys.readouterr().out


def test_one_photo_that_a_store_does_not_give_or_take_is_one_line(store, album, capsys, monkeypatch):
    for name in "abc":
        store.pipe_file(f"/photos/{name}.jpg", encoded())

    def refuse(real, word):
        def asked(self, path, *rest, **more):
            if word in path:
                raise ConnectionResetError("the line is bad")
            return real(self, path, *rest, **more)

        return asked

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "cat_file", refuse(MemoryFileSystem.cat_file, "photos/a.jpg"))
        patch.setattr(MemoryFileSystem, "pipe_file", refuse(MemoryFileSystem.pipe_file, "masks/b.png"))
        assert cut("memory://photos", "-o", "memory://out") == 1
    printed = capsys.readouterr()
    assert "memory:///photos/a.jpg cannot be read (the line is bad)" in printed.err
    assert "memory:///out/masks/b.png cannot be written (the line is bad)" in printed.err
    assert "1 of 3 photos done" in printed.out
    assert cut("memory://photos", "-o", "memory://out") == 0
    assert "3 of 3 photos done with opencv: memory:///out (1 skipped" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "pipe_file", refuse(MemoryFileSystem.pipe_file, "manifest/"))
        assert cut("memory://photos", "-o", "memory://closed") == 1
    assert "memory:///closed/manifest/000001" in capsys.readouterr().err, "before any work is done"


def test_a_store_is_waited_for_while_others_compute(store, monkeypatch):
    at_once: dict[str, list[int]] = {"reading": [], "computing": []}
    inside = Counter()

    def counted(what, real):
        def call(*given, **more):
            inside[what] += 1
            at_once[what].append(inside[what])
            time.sleep(0.05)
            try:
                return real(*given, **more)
            finally:
                inside[what] -= 1

        return call

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted("reading", MemoryFileSystem.cat_file))
    monkeypatch.setattr(batch, "attempt", counted("computing", batch.attempt))
    photos = [(RemoteFile(store, f"/{index}.jpg", "1"), Path(str(index))) for index in range(12)]
    for photo, _ in photos:
        store.pipe_file(photo.path, encoded())
    cutter = Cutter(onnx_runner(SHIPPED["lite-dwsep"].onnx), RemoteFile(store, "/out"))
    assert cut_all(cutter, "", photos, workers=1, redo=True).done == 12
    assert max(at_once["computing"]) == 1 < max(at_once["reading"]) <= batch.THREADS_A_WORKER


def test_a_store_that_cannot_append_gets_the_manifest_in_parts(store, monkeypatch):
    monkeypatch.setattr(manifest, "PHOTOS", 3)
    output = RemoteFile(store, "/out")
    with Manifest(output, "same", {"net": "n"}, "1of2") as first:
        for index in range(7):
            first.add(RemoteFile(store, f"/{index}.jpg"), Path(str(index)), "v", None if index else "why")
        assert len(store.glob("/out/manifest/*.jsonl")) == 3, "after a kill only the seventh would be done again"
    assert len(store.glob("/out/manifest/000001-1of2-*.jsonl")) == 4
    again = Manifest(output, "same", {})
    assert [again.is_done(Path(str(index)), "v") for index in range(8)] == [False, *[True] * 6, False]
    assert not again.is_done(Path("1"), "w") and not Manifest(output, "others", {}).is_done(Path("1"), "v")
    with Manifest(output, "others", {}) as other:
        other.add(RemoteFile(store, "/1.jpg"), Path("1"), "v", None)
    last = Manifest(output, "same", {})
    assert not last.is_done(Path("1"), "v") and last.is_done(Path("2"), "v"), "the last line about a photo counts"


def test_where_there_is_a_half_of_a_file_to_see_it_is_renamed(tmp_path, monkeypatch):
    file = RemoteFile(LocalFileSystem(), str(tmp_path / "new/a.png"))
    seen = []
    pipe = LocalFileSystem.pipe_file
    monkeypatch.setattr(LocalFileSystem, "pipe_file", lambda fs, path, data: (seen.append(path), pipe(fs, path, data)))
    file.write_bytes(b"whole")
    file.write_bytes(b"again")
    assert file.read_bytes() == b"again" and [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    assert str(file.path) not in seen

    def full(fs, path, data):
        pipe(fs, path, data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, "pipe_file", full)
    with pytest.raises(NotWritten, match=r"a.png cannot be written \(No space left on device\)"):
        file.write_bytes(b"more")
    assert file.read_bytes() == b"again" and [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_an_address_of_this_machine_is_a_folder(album, capsys):
    assert cut(f"file://{album}/0.jpg", "-o", f"file://{album.parent}/there") == 0
    assert names(Path("there/masks")) == {"0"} and Path("there/.made_by").is_file()
    assert not Path("there/manifest").exists(), "as without an address"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("memory://none", "-o", "x"), "No photo or folder at memory://none"),
        (("memory://none/*.jpg", "-o", "x"), "No photo or folder matches memory://none/*.jpg"),
        (("memory://photos",), "-o is missing: name the folder"),
        (("memory://photos/a.jpg", "-o", "-"), "A pipe is for one photo on this machine"),
        (("-", "-o", "memory://x.png"), "A pipe is for one photo on this machine"),
        (("-", "--shard", "1/2"), "A pipe is for one photo on this machine"),
        (("-", "--ray", "local"), "A pipe is for one photo on this machine"),
        (("album", "memory://photos", "-o", "x"), "Some inputs are addresses and some are not"),
        (("memory://photos", "-o", "x.png"), "x.png is one file for 2 photos"),
        (("nope://a", "-o", "x"), "nope://a cannot be opened (Protocol not known: nope)"),
        (("album", "-o", "nope://a"), "nope://a cannot be opened (Protocol not known: nope)"),
        (("album", "--shard", "1/2"), "--shard needs a folder for the results"),
        (("album/0.jpg", "-o", "x.png", "--manifest"), "--manifest needs a folder for the results"),
        (("album", "--ray", "local"), "--ray needs a folder for the results"),
        (("memory://photos/words", "-o", "x"), "No photos at memory://photos/words"),
    ],
)
def test_what_cannot_be_ends_in_a_sentence(store, album, capsys, words, sentence):
    for path in ("a.jpg", "b.jpg", "words/a.txt"):
        store.pipe_file(f"/photos/{path}", encoded())
    assert cut(*words) == 1
    assert sentence in capsys.readouterr().err and not Path("x").exists()


@pytest.mark.parametrize("shard", ["0/4", "5/4", "x", "1", "/", "1/0", "-1/2", "1/2/3", "٣/4"])
def test_a_shard_that_cannot_be_is_told(capsys, shard):
    with pytest.raises(SystemExit) as status:
        main(["cut", "album", "-o", "out", f"--shard={shard}"])
    assert status.value.code == 2 and "give the part and the number of parts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "words", "sentence"),
    [
        ("fsspec", ("memory://a", "-o", "x"), "memory://a needs fsspec: pip install fsspec, or in a clone"),
        ("s3fs", ("s3://a/b", "-o", "x"), "s3://a/b needs s3fs: pip install s3fs."),
        ("gcsfs", ("album", "-o", "gs://a/b"), "gs://a/b needs gcsfs: pip install gcsfs."),
        ("ray", ("album", "-o", "x", "--ray", "local"), "--ray needs ray[data]: pip install ray[data], or in a clone"),
    ],
)
def test_a_missing_package_is_named(album, capsys, monkeypatch, module, words, sentence):
    monkeypatch.setitem(sys.modules, module, None)
    assert cut(*words) == 1
    assert sentence in capsys.readouterr().err


def test_watching_does_not_write_beside_a_manifest(album, capsys):
    assert cut("album", "-o", "out", "--manifest") == 0
    assert main(["watch", "album", "-o", "out"]) == 1
    assert "-o out has a manifest of u2slim cut" in capsys.readouterr().err


def processes_of(pid: int, word: bytes) -> list[int]:
    """Those that a process has started, or that they have, whose command line has a word (on Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        above = int(path.name)
        while above not in (0, 1, pid):
            above = parent(Path(f"/proc/{above}/stat"))
        if above == pid and word in (path / "cmdline").read_bytes():
            found.append(int(path.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is absent: pip install -e .[ray]")
def test_a_process_of_rays_that_is_killed_loses_no_photo(album):
    for index in range(5, 200):
        os.link(album / "0.jpg", album / f"{index}.jpg")
    (album / "broken.jpg").write_bytes(encoded()[:500])
    words = ["cut", "album", "-o", "out", "--ray", "local", "--workers", "2", "--json", *NET]
    paths = os.pathsep.join([str(REPO / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | THREADS | {"PYTHONPATH": paths}
    with subprocess.Popen(
        [sys.executable, "-m", "u2slim.app.main", *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        wait_for(lambda: len(list(Path("out/masks").glob("*.png"))) > 40 or process.poll() is not None)
        workers = processes_of(process.pid, b"ray::MapWorker")
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    expected = {album / path for path in album.rglob("*.jpg")}
    told = [json.loads(line) for line in out.splitlines()]  # and nothing else there
    assert Counter(line["photo"] for line in told) == Counter(
        path.relative_to(album.parent).as_posix() for path in expected
    )
    assert sum("error" in line for line in told) == 1
    assert b"u2slim: 1 photo could not be cut out" in err.splitlines()[-1] and b"200 of 201 photos done" in err
    assert names(Path("out/masks")) == names(Path("out/cutouts")) and len(names(Path("out/masks"))) == 200
    for path in Path("out").rglob("*.png"):
        with Image.open(path) as image:
            assert np.asarray(image).shape[:2] == (64, 96)
    written = [line for line in lines(Path("out/manifest")) if "name" in line]
    assert Counter(line["status"] for line in written) == {"done": 200, "failed": 1}
    assert len({line["name"] for line in written}) == 201
    done = subprocess.run([sys.executable, "-m", "u2slim.app.main", *words], env=env, capture_output=True)
    assert b"(200 skipped, already done" in done.stderr
