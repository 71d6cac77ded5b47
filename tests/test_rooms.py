"""What the package promises of itself: rooms that need no torch, a quick import, and imports that point one way."""

import ast
import hashlib
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import u2slim
from tests.conftest import REPO
from u2slim.app.main import main
from u2slim.data.sample import render
from u2slim.zoo import PUBLISHED, SHIPPED, PublishedFile

PACKAGE = Path(u2slim.__file__).parent
WITHOUT = "av torch lightning pytorch_lightning torchmetrics hydra omegaconf onnxruntime albumentations matplotlib"

BLOCKED = f"""
import sys
for name in {WITHOUT!r}.split():
    sys.modules[name] = None
import importlib, pkgutil
import u2slim.app, u2slim.cutout, u2slim.images, u2slim.runtime, u2slim.zoo
for room in (u2slim.app, u2slim.cutout, u2slim.images):
    for module in pkgutil.iter_modules(room.__path__, room.__name__ + "."):
        importlib.import_module(module.name)
import numpy as np
for net in ("lite-two-thirds", "lite-dwsep", "u2netp"):
    result = u2slim.cut_out(sys.argv[1], net)
    np.save(sys.argv[2] + net, result.rgba)
    assert result.mask.shape == result.rgba.shape[:2]
try:
    u2slim.open_net("u2netp").net()
except u2slim.UserError as error:
    print(error)
"""


def python(script: str, *arguments: object, cwd: Path) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env={"PYTHONPATH": str(REPO / "src")}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_cutting_out_needs_no_torch_and_makes_the_same(tmp_path):
    Image.fromarray(render(3, 1)[0]).save(tmp_path / "photo.png")
    printed = python(BLOCKED, "photo.png", "made-", cwd=tmp_path)
    assert "building u2netp for torch needs torch: in a clone" in printed
    for net in ("lite-two-thirds", "lite-dwsep", "u2netp"):
        expected = u2slim.cut_out(tmp_path / "photo.png", net).rgba
        np.testing.assert_array_equal(np.load(tmp_path / f"made-{net}.npy"), expected)


def test_nets_are_listed_with_where_they_are(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("U2SLIM_CACHE", str(tmp_path))
    (tmp_path / "isnet-anime.onnx").write_bytes(b"damaged")
    content = bytes(1_200_000)
    (tmp_path / "u2net.onnx").write_bytes(content)
    file = PublishedFile("u2net.onnx", "https://nowhere.test/u2net.onnx", 176.0, hashlib.md5(content).hexdigest())
    monkeypatch.setitem(PUBLISHED, "u2net", replace(PUBLISHED["u2net"], files=(file,)))
    assert main(["nets"]) == 0
    rows = {
        line.split()[0]: " ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip(" ─")
    }
    assert {*SHIPPED, *PUBLISHED} < rows.keys()
    assert "1.6 .945 .029 shipped Apache-2.0" in rows["lite-two-thirds"]
    assert "4.6 .944 .032 shipped Apache-2.0" in rows["u2netp"]
    assert f"1.2 - - in {tmp_path} Apache-2.0" in rows["u2net"]
    assert "178.6 .949 .031 to download Apache-2.0" in rows["isnet-general-use"]
    assert "176.1 - - to download Apache-2.0" in rows["isnet-anime"]


def test_ctrl_c_before_the_work_begins_ends_in_a_word(capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("u2slim.app.nets.run", interrupted)
    assert main(["nets"]) == 130
    assert capsys.readouterr().err == "u2slim: interrupted\n"


def test_importing_the_package_brings_nothing_heavy(tmp_path):
    loaded = python("import sys, u2slim; print(*{n.partition('.')[0] for n in sys.modules})", cwd=tmp_path).split()
    assert not {"numpy", "cv2", "PIL", "onnx", "torch", "rich", "gdown"} & {*loaded}


def test_imports_point_one_way():
    """The rooms and the modules beside them, as a graph of all imports but those for type checkers, have no circle."""
    below: dict[str, set[str]] = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        own = file.relative_to(PACKAGE).with_suffix("").parts[0]
        below[own] |= {room for room in rooms_imported(file) if room != own}
    done: set[str] = set()
    while ready := {room for room, others in below.items() if room not in done and others <= done}:
        done |= ready
    assert done == below.keys(), {room: sorted(below[room] - done) for room in below.keys() - done}


def test_rooms_import_what_contributing_says():
    table = (REPO / "CONTRIBUTING.md").read_text().partition("| room | imports |")[2].partition("\n\n")[0]
    allowed: dict[str, set[str]] = {}
    for line in table.splitlines()[2:]:
        names, rooms = (set(re.findall("`([a-z]+)`", cell)) for cell in line.split("|")[1:3])
        allowed |= dict.fromkeys(names, rooms)
    assert allowed.keys() == {room.name for room in PACKAGE.iterdir() if (room / "__init__.py").is_file()}
    for room, rooms in allowed.items():
        imported = set().union(*(rooms_imported(file) for file in (PACKAGE / room).rglob("*.py")))
        assert imported & allowed.keys() - {room} <= rooms, room


def rooms_imported(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("u2slim"):
            names = [f"u2slim.{a.name}" for a in node.names] if node.module == "u2slim" else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("u2slim.")]
        else:
            continue
        rooms = {name.split(".")[1] for name in names}
        found |= {room for room in rooms if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file()}
    return found
