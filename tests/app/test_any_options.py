"""Options in any combination, and names of any form: a result or one sentence, and no photo is touched."""

import json
import os
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from u2slim.app.main import main
from u2slim.data.sample import render
from u2slim.images.photos import find_all_photos
from u2slim.images.read import EXTENSIONS

quick = settings(
    derandomize=True,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
VALUES = {
    "--mask": ["also", "only", "none"],
    "--background": ["white", "#0000", "blur", "ground.png", "nowhere.png", "photo.png", ""],
    "--format": ["png", "webp", "webp-lossless", "jpeg", "tiff", "avif", "gif"],
    "--crop": ["0", "20", "10%", "1e9", "-1", "99999999999999999999", "nan%"],
    "--keep": ["exif,icc,dpi", "none", "icc", "exif", "", "xmp"],
    "--border": ["0", "20", "100%", "101", "nan", "inf"],
    "--threshold": ["0", "0.5", "1", "2", "nan", "x"],
    "--workers": ["1", "2", "0", "1e3", "٣"],
    "--size": ["64", "1", "99999"],
    "--class": ["car", "", ",", " a , b"],
    "--shard": ["1/1", "1/2", "2/2", "0/4", "5/4", "x"],
    "-o": [
        *("out", "new/", "cut.png", "cut.tif", "cut.xyz", "photo.png", "ground.png", "", "/dev/null/x.png"),
        *("memory://out", "memory://out/cut.png", "nope://out"),
    ],
}
FLAGS = ["--srgb", "--largest", "--no-stretch", "--json", "--redo", "--refine=guided", "--manifest"]
options = st.tuples(
    st.dictionaries(st.sampled_from(list(VALUES)), st.integers(0, 11), max_size=4),
    st.lists(st.sampled_from(FLAGS), unique=True, max_size=2),
)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pixels = render(3, 1)[0][:96, :128]
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    Image.fromarray(pixels).save("photo.png", exif=exif, dpi=(300, 300))
    Image.fromarray(pixels[::-1]).save("ground.png")
    return tmp_path


@quick
@given(options)
def test_any_options_together_end_in_a_result_or_a_sentence(folder, capsys, chosen):
    values, flags = chosen
    words = [f"{name}={VALUES[name][index % len(VALUES[name])]}" for name, index in values.items() if name != "-o"]
    if "-o" in values:
        words += ["-o", VALUES["-o"][values["-o"] % len(VALUES["-o"])]]
    before = {name: Path(name).read_bytes() for name in ("photo.png", "ground.png")}
    # Only the file of the ground may be replaced, and only where it is not the ground itself.
    try:
        status = main(["cut", "photo.png", "--net", "lite-dwsep", "--runtime", "opencv", *words, *flags])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert status in (0, 1, 2), err
    assert Path("photo.png").read_bytes() == before["photo.png"]
    if "--background=ground.png" in words:
        assert Path("ground.png").read_bytes() == before["ground.png"]
    Path("ground.png").write_bytes(before["ground.png"])
    assert "Traceback" not in err
    if status:
        assert "u2slim" in err.splitlines()[-1]
    elif "--json" in flags and out:  # a shard may have no photo
        for made in json.loads(out.splitlines()[0])["files"]:
            with fsspec.open(made) as file, Image.open(file) as image:
                image.load()
    assert not list(Path().rglob(".*.part.*"))


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
endings = st.sampled_from([*EXTENSIONS[:6], ".JPG", ".txt", ""])


@settings(quick, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["", "sub/", "sub/deep/"]), names, endings), min_size=1, max_size=8))
def test_no_two_results_meet_and_no_photo_is_passed_over_without_a_word(tmp_path_factory, given_names):
    folder = tmp_path_factory.mktemp("album")
    made = set()
    for where, name, ending in given_names:
        if len(os.fsencode(name + ending)) > 200 or name + ending in (".", ".."):
            continue
        path = folder / where / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            path.touch()
            made.add(path)
    shown = {path for path in made if not path.name.startswith(".")}
    photos = {path for path in shown if path.suffix.lower() in EXTENSIONS}
    if not photos:
        return
    found = find_all_photos([folder])
    assert {photo for photo, _ in found.photos} | set(found.results) == photos
    assert set(found.others) == shown - photos
    results = [str(name) for _, name in found.photos]
    assert len(set(results)) == len(results)


def test_links_and_folders_that_cannot_be_read_are_told_of(folder, capsys):
    for place in ("album", "elsewhere"):
        Path(place).mkdir()
        Image.open("photo.png").save(f"{place}/{place}.png")
    Path("album/link").symlink_to("../elsewhere")
    Path("album/self").symlink_to(".")
    Path("album/loop.jpg").symlink_to("loop.jpg")
    assert main(["cut", "album", "-o", "out", "--net", "lite-dwsep", "--runtime", "opencv"]) == 1
    err = capsys.readouterr().err
    assert "passed over, as links to folders, unless you name them: album/link\n" in err
    assert "album/loop.jpg is a link that leads nowhere" in err
    assert Path("out/cutouts/album.png").is_file()
    Path("links").mkdir()
    Path("links/one").symlink_to("../album")
    assert main(["cut", "links"]) == 1
    assert "No photos under links but in links/one, a link to a folder; name that itself" in capsys.readouterr().err


def test_a_closed_folder_is_a_failure(folder, capsys, monkeypatch):
    Path("album/closed").mkdir(parents=True)
    Image.open("photo.png").save("album/a.png")
    scan = os.scandir

    def refuse(path):  # as the system does, though not to root
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert main(["cut", "album", "-o", "out", "--net", "lite-dwsep", "--runtime", "opencv"]) == 1
    out, err = capsys.readouterr()
    assert "1 of 1 photo done" in out
    assert "album/closed is a folder that cannot be read; allow yourself to read and enter it" in err
    assert main(["cut", "album/closed", "-o", "out"]) == 1
    assert "album/closed is a folder that cannot be read" in capsys.readouterr().err


def test_what_the_system_refuses_ends_in_a_sentence(folder, capsys, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "album/a.png")

    monkeypatch.setattr("u2slim.images.photos.expanded", refuse)
    assert main(["cut", "album/a.png"]) == 1
    assert "album/a.png cannot be used (Permission denied); allow yourself to use it." in capsys.readouterr().err


@pytest.mark.parametrize("source", ["photo.png", "-"])
def test_the_background_is_not_overwritten(folder, capsys, source, monkeypatch):
    if source == "-":
        monkeypatch.setattr("sys.stdin", Path("photo.png").open())  # noqa: SIM115
    before = Path("ground.png").read_bytes()
    assert main(["cut", source, "--background", "ground.png", "-o", "ground.png", "--net", "lite-dwsep"]) == 1
    assert "would overwrite the background ground.png; choose another place with -o" in capsys.readouterr().err
    assert Path("ground.png").read_bytes() == before


def test_a_damaged_note_is_written_anew(folder):
    Path("out").mkdir()
    Path("out/.made_by").write_bytes(b"\xff\xfe")
    assert main(["cut", "photo.png", "-o", "out", "--net", "lite-dwsep", "--runtime", "opencv"]) == 0
    assert len(Path("out/.made_by").read_text()) == 64


def test_a_photo_that_changes_meanwhile_is_done_again(folder, capsys, monkeypatch):
    from u2slim.cutout import batch

    attempt = batch.attempt

    def change(cutter, photo):
        made = attempt(cutter, photo)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photo)
        return made

    words = ["cut", "photo.png", "-o", "out", "--net", "lite-dwsep", "--runtime", "opencv"]
    with monkeypatch.context() as patch:
        patch.setattr(batch, "attempt", change)
        assert main(words) == 1
    assert "photo.png has changed while it was cut out; run the command again" in capsys.readouterr().err
    assert not Path("out/masks").exists()
    assert main(words) == 0
    assert Image.open("out/masks/photo.png").size == (8, 8)


@pytest.mark.filterwarnings("default")
def test_what_pillow_says_of_a_file_that_is_read_is_no_news(folder):
    palette = Image.open("photo.png").convert("P")
    palette.save("palette.png", transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings(record=True) as said:
        assert main(["cut", "palette.png", "--net", "lite-dwsep", "--runtime", "opencv"]) == 0
    assert not [one for one in said if "PIL" in one.filename]
