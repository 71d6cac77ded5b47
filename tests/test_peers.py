"""benchmarks.peers with tools that take no time: what is run, what is scored, and what the table says."""

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.peer_installs import NotInstalled, Peer, known_peers, reason_in
from benchmarks.peer_scores import keep_masks
from benchmarks.peers import chosen, measure, table

# A tool whose mask is the photo in gray, as the transparency of what it writes into a folder of its own.
GRAY = """
import sys
from pathlib import Path
from PIL import Image
photos, out = Path(sys.argv[1]), Path(sys.argv[2], "cuts")
out.mkdir()
for photo in photos.iterdir() if photos.is_dir() else [photos]:
    picture = Image.open(photo).convert("RGB")
    picture.putalpha(picture.convert("L"))
    picture.save(out / f"{photo.stem}.png")
"""


def absent(home: Path) -> None:
    raise NotInstalled("npm does not install it")


def nothing(home: Path) -> None:
    (home / "file").write_bytes(bytes(1_500_000))


def fake(name: str, home: Path, script: str, install=nothing) -> Peer:
    command = [sys.executable, "-c", script.replace("{", "{{").replace("}", "}}"), "{photos}", "{out}"]
    return Peer(name, home, install, command, command, lambda: 2_000_000, "cuts")


def test_tools_are_timed_and_scored_and_those_that_fail_say_why(tmp_path):
    root, home = tmp_path / "data", tmp_path / "home"
    home.mkdir()
    for folder in ("images", "ground_truth_mask"):
        (root / "ECSSD" / folder).mkdir(parents=True)
    for name in ("0001", "0002"):  # photos that are their own truth
        square = np.zeros((60, 80), np.uint8)
        square[20:40, 20:60] = 255
        Image.fromarray(square).save(root / "ECSSD" / "images" / f"{name}.jpg", quality=100)
        Image.fromarray(square).save(root / "ECSSD" / "ground_truth_mask" / f"{name}.png")
    peers = [fake("gray", home, GRAY), fake("absent", home, GRAY, absent), fake("broken", home, "1 / 0")]
    options = Namespace(envs=tmp_path, megapixels=["0.12"], count=3, rounds=1, folder_rounds=1, root=root, images=2)
    saved = []
    rows = measure(peers, options, saved.append)
    gray, *others = rows
    assert [(row["peer"], row["why"]) for row in others] == [
        ("absent", "npm does not install it"),
        ("broken", "does not run: ZeroDivisionError: division by zero"),
    ]
    assert gray["one_seconds"] > 0 and gray["one_mib"] > 5 and gray["rate"] > 0
    assert (gray["installed_mb"], gray["net_mb"]) == (1.5, 2.0)
    assert gray["maxF"] == pytest.approx(1, abs=1e-3) and gray["bIoU"] == pytest.approx(1, abs=1e-3)
    assert "maxF" not in saved[0][0] and saved[-1] == rows


def test_the_table_has_a_dash_for_what_was_not_measured_and_reasons_where_there_are_any():
    row = {"peer": "a", "megapixels": "2", "one_seconds": 1.234, "one_mib": 99.6, "rate": 3.0, "net_mb": 4.57}
    assert table([row]).splitlines()[2] == "| a | 2 | 1.23 | 100 | 3.00 | - | - | - | 4.6 | - | - |"
    assert table([row, {"peer": "b", "why": "no npm"}]).splitlines()[3] == f"| b |{' - |' * 10} no npm |"


def test_commands_for_a_photo_and_for_a_folder(tmp_path):
    photo, out, envs = tmp_path / "0.jpg", tmp_path / "out", tmp_path / "envs"
    peers = {peer.name: peer for peer in known_peers(envs, None, tmp_path / "u2slim")}
    ours, rembg = peers["u2slim cut --net u2netp"], peers["rembg -m u2netp"]
    quick = peers["u2slim[openvino] cut --net isnet-s --runtime openvino-bf16"]
    program = f"{envs}/u2slim/bin/u2slim"
    assert ours.command(photo, out) == [program, "cut", str(photo), "-o", f"{out}/cut.png", "--net", "u2netp"]
    assert ours.command(tmp_path, out) == [program, "cut", str(tmp_path), "-o", str(out), "--net", "u2netp"]
    assert quick.command(photo, out)[0] == f"{envs}/u2slim-openvino/bin/u2slim" and quick.net.stem == "isnet-s"
    assert rembg.command(tmp_path, out)[1:] == ["p", "-m", "u2netp", str(tmp_path), str(out)]
    assert not any("isnet-general-use" in name for name in peers)
    assert "rembg -m isnet-general-use" in {peer.name for peer in known_peers(envs, photo, photo)}
    for peer in peers.values():
        assert {str(photo)} <= set(peer.command(photo, out)) and "{" not in "".join(peer.command(photo, out))
    with pytest.raises(NotInstalled, match="--cpp"):
        peers["C++ program, lite-two-thirds"].install(tmp_path / "u2slim")


def test_tools_are_chosen_by_words_in_their_names(tmp_path):
    peers = [fake(name, tmp_path, "") for name in ("rembg -m u2netp", "imgly", "u2slim")]
    assert chosen(peers, ["rembg", "sli"]) == [peers[0], peers[2]] and chosen(peers, None) == peers
    with pytest.raises(SystemExit, match="imgly"):
        chosen(peers, ["photoshop"])


def test_masks_are_the_transparency_also_of_pictures_with_a_palette(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (tmp_path / "cuts").mkdir()
    Image.fromarray(ramp).save(tmp_path / "cuts" / "gray.png")
    cut = Image.fromarray(np.dstack([ramp * 0] * 3 + [ramp]))
    cut.save(tmp_path / "cuts" / "clear.png")
    palette = Image.fromarray(ramp, "P")
    palette.putpalette([0, 0, 0] * 256)
    palette.save(tmp_path / "cuts" / "palette.png", transparency=bytes(range(256)))
    keep_masks(tmp_path / "cuts", tmp_path / "masks")
    for name in ("gray", "clear", "palette"):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "masks" / f"{name}.png")), ramp)


def test_the_reason_is_the_last_error_and_not_where_a_log_lies():
    npm = "npm error [cause]: Error: getaddrinfo ENOTFOUND\nnpm error }\nnpm error A complete log of this run: x.log\n"
    assert reason_in(npm) == "npm error [cause]: Error: getaddrinfo ENOTFOUND"
    assert reason_in("Killed\n\n") == "Killed"
    assert reason_in("") == "no word of why"
