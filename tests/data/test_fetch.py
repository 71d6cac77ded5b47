"""Fetching published sets: from a server on this machine, or from archives that are already there."""

import dataclasses
import io
import os
import random
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from PIL import Image

from tests.conftest import REPO
from u2slim import download
from u2slim.data import archive, fetch
from u2slim.data.catalog import CATALOG, get_data_set
from u2slim.data.data_set import Archive
from u2slim.data.folders import MIRRORS
from u2slim.data.pairs import find_pairs
from u2slim.errors import UserError

PUBLISHED = {name: data_set for name, data_set in CATALOG.items() if data_set.home_page}


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (6, 4), 200).save(buffer, kind)
    return buffer.getvalue()


JPEG, PNG = picture("JPEG"), picture("PNG")
PAIRS = {"images/1.jpg": JPEG, "images/2.jpg": JPEG, "ground_truth_mask/1.png": PNG, "ground_truth_mask/2.png": PNG}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def tarred(*members: tarfile.TarInfo, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for name, content in PAIRS.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
        for member in members:
            file.addfile(member)
    return buffer.getvalue()


@pytest.fixture
def publish(monkeypatch, server):
    """Serve files as the archives of ECSSD, of which two pairs are published."""

    def publish(**files: bytes) -> None:
        server.files = {f"{stem}.zip": content for stem, content in files.items()}
        archives = tuple(Archive(name, "all", (server.url(name),)) for name in server.files)
        monkeypatch.setitem(CATALOG, "ecssd", dataclasses.replace(CATALOG["ecssd"], count=2, archives=archives))

    return publish


def nothing_made(root: Path) -> bool:
    return [path.name for path in root.iterdir()] == [".downloads"] and not list(root.rglob("*.unpacking"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_catalog_says_where_each_set_is_from(name):
    data_set = PUBLISHED[name]
    assert data_set.count and data_set.citation and data_set.home_page.startswith("http")
    assert data_set.archives or data_set.by_hand
    for file in data_set.archives:
        assert file.urls and all(url.startswith("http") and url.endswith(f"/{file.name}") for url in file.urls)


def test_the_archives_names_do_not_clash():
    names = [file.name for data_set in CATALOG.values() for file in data_set.archives]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_layout_and_mirror_is_found(tmp_path, name):
    data_set = PUBLISHED[name]
    # Mirrors' folders do not say whether they hold the images of training or of validation.
    layouts = data_set.layouts if data_set.labels else (*data_set.layouts, *MIRRORS)
    image, mask = ("a" + ends[0] for ends in data_set.endings or [("",), ("",)])
    for number, home in enumerate(data_set.homes):
        for index, (images, masks) in enumerate(layouts):
            root = tmp_path / f"{number}-{index}"
            files = (images, f"{image}.jpg", JPEG), (masks, f"{mask}.png", PNG)
            for folder, file, content in files[: 1 if data_set.withheld else 2]:
                (root / home / folder).mkdir(parents=True, exist_ok=True)
                (root / home / folder / file).write_bytes(content)
            assert len(find_pairs(get_data_set(name), root) or ()) == 1, (home, images, masks)


def test_a_set_in_its_own_folder_is_put_in_place(tmp_path, publish):
    litter = {"__MACOSX/ECSSD/._1.jpg": b"x", "ecssd/.DS_Store": b"x", "Readme.txt": b"read me"}
    publish(all=zipped({f"ecssd/{name}": content for name, content in PAIRS.items()} | litter))
    said = fetch.fetch("ecssd", tmp_path)
    assert said.startswith(f"ECSSD: 2 pairs in {tmp_path / 'ECSSD'}. Cite Q. Yan") and "dataset.html" in said
    assert [path.name for path in tmp_path.iterdir()] == ["ECSSD"], "the archive is removed"
    made = sorted(path.relative_to(tmp_path / "ECSSD").as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert made == sorted(["Readme.txt", *PAIRS])
    assert fetch.fetch("ecssd", tmp_path) == f"ECSSD is already there: 2 pairs under {tmp_path}."


def test_two_archives_make_one_set_and_are_kept_on_demand(tmp_path, publish):
    parts = [{name: content for name, content in PAIRS.items() if name.startswith(start)} for start in ("im", "gr")]
    publish(images=zipped(parts[0]), masks=tarred(mode="w:gz"))
    fetch.fetch("ecssd", tmp_path, keep=True)
    assert len(find_pairs(get_data_set("ecssd"), tmp_path)) == 2
    assert sorted(path.name for path in (tmp_path / ".downloads").iterdir()) == ["images.zip", "masks.zip"]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_broken_download_goes_on_in_the_next_call(tmp_path, publish, server, monkeypatch, knows_ranges):
    content = zipped(PAIRS | {"noise": random.Random(0).randbytes(2_000_000)})
    publish(all=content)
    server.breaks = [1_500_000]
    monkeypatch.setattr(download, "_RETRIES", 0)
    with pytest.raises(UserError, match="Download is incomplete: received 1[0-9]{6} bytes.*continues where it broke"):
        fetch.fetch("ecssd", tmp_path)
    assert nothing_made(tmp_path)
    (partial,) = (tmp_path / ".downloads").iterdir()
    received = partial.stat().st_size
    assert received > 1_000_000
    server.knows_ranges = knows_ranges
    server.ranges.clear()
    fetch.fetch("ecssd", tmp_path, keep=True)
    assert f"bytes={received}-" in server.ranges
    assert (server.ranges[-1] is None) == (not knows_ranges), "the whole again where the rest is not to be had"
    (whole,) = (tmp_path / ".downloads").iterdir()
    assert whole.read_bytes() == content


def test_a_broken_connection_is_taken_up_in_the_same_call(tmp_path, publish, server):
    publish(all=zipped(PAIRS | {"noise": random.Random(0).randbytes(2_000_000)}))
    server.breaks = [1_500_000]
    fetch.fetch("ecssd", tmp_path)
    assert len(server.ranges) == 2 and server.ranges[1].startswith("bytes=1")


def test_a_download_killed_after_its_last_byte_is_mended(tmp_path, publish):
    content = zipped(PAIRS)
    publish(all=content)
    (tmp_path / ".downloads").mkdir()
    (tmp_path / ".downloads" / "all.zipabcdefgh.part").write_bytes(content)
    fetch.fetch("ecssd", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ECSSD"]


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "../../../outside"
    return member


def zip_with_link() -> bytes:
    member = zipfile.ZipInfo("images/evil")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zipped({member: b"../../../outside"} | PAIRS)


def encrypted() -> bytes:
    content = bytearray(zipped(PAIRS))
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (zipped(PAIRS | {"../evil": b"x"}), "'../evil' would land outside"),
        (zipped(PAIRS | {"images/../../evil": b"x"}), "would land outside"),
        (zipped(PAIRS | {"..\\evil": b"x"}), "would land outside"),
        (zipped(PAIRS | {"/evil": b"x"}), "'/evil' would land outside"),
        (zipped(PAIRS | {"C:\\evil": b"x"}), "would land outside"),
        (zip_with_link(), "is a link"),
        (encrypted(), "is encrypted"),
        (tarred(link("images/evil", tarfile.SYMTYPE)), "is a link"),
        (tarred(link("images/evil", tarfile.LNKTYPE)), "is a link"),
        (tarred(link("images/evil", tarfile.FIFOTYPE)), "is no file"),
        (tarred(tarfile.TarInfo("../evil")), "would land outside"),
        (tarred(tarfile.TarInfo("/evil")), "would land outside"),
    ],
)
def test_members_that_escape_are_refused(tmp_path, publish, content, reason):
    publish(all=content)
    root = tmp_path / "root"
    with pytest.raises(UserError, match="is refused, nothing was unpacked") as caught:
        fetch.fetch("ecssd", root)
    assert reason in str(caught.value)
    assert nothing_made(root) and [path.name for path in tmp_path.iterdir()] == ["root"]


def corrupt() -> bytes:
    content = bytearray(zipped(PAIRS))
    content[content.index(JPEG) + 5] ^= 255
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason", "kept"),
    [
        (zipped(PAIRS)[:-40], "all.zip is a truncated archive", False),
        (tarred(mode="w:gz")[:-40], "all.zip is damaged", True),
        (corrupt(), "all.zip is damaged .*CRC-32", True),
        (b"\n<!DOCTYPE html><title>Moved</title>", "all.zip is a web page, not an archive", False),
        (b"Rar!\x1a\x07", "all.zip is a RAR or 7-Zip archive", False),
        (b"nonsense", "all.zip is neither a zip nor a tar archive", False),
        (zipped({"ECSSD/other/1.jpg": JPEG}), r"do not hold its images and masks \(they hold other\)", True),
        (zipped({name: PAIRS[name] for name in list(PAIRS)[:3]}), "ECSSD was not put in place", True),
    ],
)
def test_what_is_no_such_set_leaves_nothing_behind(tmp_path, publish, content, reason, kept):
    publish(all=content)
    with pytest.raises(UserError, match=reason) as caught:
        fetch.fetch("ecssd", tmp_path)
    assert nothing_made(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / ".downloads" / "all.zip").exists() == kept


def test_an_archive_other_than_reported_is_taken_only_on_demand(tmp_path, publish, monkeypatch):
    publish(all=zipped(PAIRS))
    ecssd = CATALOG["ecssd"]
    for other, reason in (
        ({"size": 7}, "instead of the reported 7"),
        ({"sha256": "0" * 64}, "instead of the reported 0"),
    ):
        archives = (dataclasses.replace(ecssd.archives[0], **other),)
        monkeypatch.setitem(CATALOG, "ecssd", dataclasses.replace(ecssd, archives=archives))
        with pytest.raises(UserError, match=f"{reason}.*verify=false"):
            fetch.fetch("ecssd", tmp_path)
        assert nothing_made(tmp_path)
    assert "2 pairs" in fetch.fetch("ecssd", tmp_path, verify=False)


def test_another_count_is_said(tmp_path, publish):
    publish(all=zipped(PAIRS | {"images/3.jpg": JPEG, "ground_truth_mask/3.png": PNG}))
    assert "3 pairs instead of the published 2 in" in fetch.fetch("ecssd", tmp_path)


@pytest.mark.parametrize("file", ["ecssd/notes.txt", "ECSSD/images/1.jpg"])
def test_a_folder_that_is_there_is_left_as_it_is(tmp_path, publish, server, file):
    publish(all=zipped(PAIRS))
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_bytes(JPEG)
    with pytest.raises(UserError, match="move it away or remove it first|no mask"):
        fetch.fetch("ecssd", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / file] and not server.ranges


def test_a_part_of_a_set_is_not_filled_up(tmp_path, publish, server):
    publish(all=zipped(PAIRS))
    for name in ("images/1.jpg", "ground_truth_mask/1.png"):
        (tmp_path / "ECSSD" / name).parent.mkdir(parents=True)
        (tmp_path / "ECSSD" / name).write_bytes(PAIRS[name])
    with pytest.raises(UserError, match="ECSSD is already under .* with 1 of 2 pairs"):
        fetch.fetch("ecssd", tmp_path)
    assert not server.ranges


def test_an_empty_folder_is_filled(tmp_path, publish):
    publish(all=zipped(PAIRS))
    (tmp_path / "ECSSD").mkdir()
    assert "2 pairs in" in fetch.fetch("ecssd", tmp_path)


def test_an_interrupted_unpacking_leaves_nothing_and_a_killed_ones_rest_goes(tmp_path, publish, monkeypatch):
    publish(all=zipped(PAIRS))
    extract = zipfile.ZipFile.extract

    def interrupted(self, member, path):
        if member.filename.startswith("ground"):
            raise KeyboardInterrupt
        return extract(self, member, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(zipfile.ZipFile, "extract", interrupted)
        fetch.fetch("ecssd", tmp_path)
    assert nothing_made(tmp_path)
    rest = tmp_path / ".downloads/ecssd.unpacking/inside/images/9.jpg"
    rest.parent.mkdir(parents=True)
    rest.write_bytes(JPEG)
    fetch.fetch("ecssd", tmp_path)
    assert len(find_pairs(get_data_set("ecssd"), tmp_path)) == 2 and len(list(tmp_path.rglob("*.jpg"))) == 2


def test_too_little_room_is_said_before_unpacking(tmp_path, publish, monkeypatch):
    publish(all=zipped(PAIRS))
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="all.zip needs 0 MB .* make room or choose another root"):
        fetch.fetch("ecssd", tmp_path)
    assert nothing_made(tmp_path)


def test_the_second_address_is_tried_when_the_first_is_dead(tmp_path, publish, server, monkeypatch):
    publish(all=zipped(PAIRS))
    ecssd = CATALOG["ecssd"]
    archives = (dataclasses.replace(ecssd.archives[0], urls=(server.url("gone.zip"), server.url("all.zip"))),)
    monkeypatch.setitem(CATALOG, "ecssd", dataclasses.replace(ecssd, archives=archives))
    assert "2 pairs" in fetch.fetch("ecssd", tmp_path)


def test_what_to_do_by_hand_without_the_server(tmp_path, publish, server, monkeypatch):
    content = zipped(PAIRS)
    publish(all=content)
    server.files.clear()
    with pytest.raises(UserError, match="the server answers 404"):
        fetch.fetch("ecssd", tmp_path)
    monkeypatch.setattr(download, "_RETRIES", 0)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="could not be downloaded: no connection to the server.") as caught:
        fetch.fetch("ecssd", tmp_path)
    for part in (
        f"all.zip (all) from {server.url('all.zip')}",
        CATALOG["ecssd"].home_page,
        str(tmp_path / ".downloads"),
    ):
        assert part in str(caught.value)
    (tmp_path / ".downloads" / "all.zip").write_bytes(content)
    assert "2 pairs" in fetch.fetch("ecssd", tmp_path)


@pytest.mark.parametrize(("wanted", "count"), [("ecssd", 1), (["ecssd", "duts_te"], 2), ("all", len(PUBLISHED))])
def test_which_sets_are_meant(wanted, count):
    assert len(fetch._names(OmegaConf.create({"set": wanted}).set)) == count


@pytest.mark.parametrize("wanted", [None, "ecsd", "sample_tr", ["ecssd", "ecsd"]])
def test_unknown_sets_are_named(wanted):
    with pytest.raises(UserError, match="set=all, of duts_tr, duts_te, dut_omron"):
        fetch._names(wanted)


def test_the_door_without_a_network(tmp_path):
    no_network = {
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "PYTHONPATH": str(REPO / "src"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "u2slim.data.fetch", "set=[ecssd,hku_is]", "root=sets"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | no_network,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "ERROR images.zip of ECSSD could not be downloaded: no connection to the server." in done.stdout
    assert "ERROR HKU-IS cannot be fetched. It is published as HKU-IS.rar" in done.stdout
    assert done.stdout.splitlines()[-1] == "ERROR 2 of 2 sets are not there, see above: ECSSD, HKU-IS."
    assert [path.name for path in tmp_path.iterdir()] == ["sets"], "neither a run folder nor a log"
