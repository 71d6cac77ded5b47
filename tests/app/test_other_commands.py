"""`u2slim watch`, `nets` and `completion`."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import u2slim
from tests.conftest import REPO, THREADS, wait_for
from u2slim.app.main import main
from u2slim.data.sample import render
from u2slim.zoo import PUBLISHED, SHIPPED


def test_watch_cuts_out_what_comes_in_once_it_is_whole(tmp_path):
    inbox, masks = tmp_path / "inbox", tmp_path / "out/masks"
    inbox.mkdir()
    Image.fromarray(render(3, 1)[0]).save(tmp_path / "photo.jpg", quality=95)
    data = (tmp_path / "photo.jpg").read_bytes()
    (inbox / "early.jpg").write_bytes(data)
    command = [sys.executable, "-m", "u2slim.app.main", "watch", "inbox", "-o", "out", "--net", "lite-dwsep"]
    env = os.environ | THREADS | {"PYTHONPATH": str(REPO / "src")}
    process = subprocess.Popen(
        [*command, "--runtime", "opencv", "--workers", "1"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

    def made(name: str) -> bool:
        return (masks / name).is_file() or process.poll() is not None

    wait_for(lambda: made("early.png"))
    with (inbox / "slow.jpg").open("wb") as file:  # as a copy over a network
        for start in range(0, len(data), len(data) // 4):
            file.write(data[start : start + len(data) // 4])
            file.flush()
            assert not (masks / "slow.png").exists()
            subprocess.run(["sleep", "0.5"], check=True)
    (inbox / "sub").mkdir()
    (inbox / "sub/broken.jpg").write_bytes(data[:900])
    (inbox / "letter.txt").write_text("no photo")
    wait_for(lambda: made("slow.png"))
    shutil.copy(tmp_path / "photo.jpg", inbox / "sub/broken.jpg")  # mended
    wait_for(lambda: made("sub/broken.png"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.splitlines()[0] == "watching inbox with opencv, results in out; Ctrl-C ends it"
    assert out.splitlines()[1:-1] == ["inbox/early.jpg", "inbox/slow.jpg", "inbox/sub/broken.jpg"]
    assert out.splitlines()[-1].startswith("3 done, ") and "Traceback" not in err
    assert "slow.jpg" not in err, "half a photo was read"
    expected = u2slim.cut_out(tmp_path / "photo.jpg", "lite-dwsep").mask
    np.testing.assert_allclose(np.asarray(Image.open(masks / "slow.png")).astype(int), expected, atol=1)


def test_watch_goes_on_in_a_folder_that_is_never_quiet(tmp_path):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    Image.fromarray(render(3, 1)[0]).save(inbox / "a.jpg")
    command = [sys.executable, "-m", "u2slim.app.main", "watch", "inbox", "-o", "out", "--runtime", "opencv"]
    env = os.environ | THREADS | {"PYTHONPATH": str(REPO / "src")}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith("watching inbox")
        shutil.copy(inbox / "a.jpg", inbox / "late.jpg")  # while it looks at what is there

        def busy() -> bool:
            with (inbox / "log.txt").open("a") as file:
                file.write("a line\n")
            return (tmp_path / "out/masks/a.png").is_file() and (tmp_path / "out/masks/late.png").is_file()

        wait_for(busy, 60)
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_watch_ends_when_its_folder_is_gone(tmp_path):
    (tmp_path / "inbox").mkdir()
    command = [sys.executable, "-m", "u2slim.app.main", "watch", "inbox", "-o", "out", "--runtime", "opencv"]
    env = os.environ | THREADS | {"PYTHONPATH": str(REPO / "src")}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().startswith("watching inbox")
    (tmp_path / "inbox").rmdir()
    assert "The folder inbox is gone; make it again" in process.communicate(timeout=60)[1]
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere", "-o", "out"], "There is no folder nowhere to watch"),
        (["inbox", "-o", "inbox"], "-o inbox is no place for the results"),
        (["inbox", "-o", ""], "is no place for the results"),
    ],
)
def test_watch_refuses_in_a_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    Path("inbox").mkdir()
    assert main(["watch", *words]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_nets_says_where_each_is_and_how_fast(capsys, monkeypatch):
    monkeypatch.setattr("u2slim.app.nets.REPEATS", 1)
    monkeypatch.setattr("u2slim.app.nets.installed_runtimes", lambda: ["opencv"])  # the others take a minute
    assert main(["nets", "--speed"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.split()}
    assert {*SHIPPED, *PUBLISHED} <= set(rows)
    assert rows["net"].split()[2:4] == ["opencv,", "ms"]
    megabytes, milliseconds = rows["lite-half"].split()[1:3]
    assert megabytes == "2.4" and 1 < int(milliseconds) < 60_000
    assert "to download" in rows["u2net"] and "shipped" in rows["u2netp"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh", "powershell"])
def test_completion_knows_the_options(capsys, shell):
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert "u2slim" in printed and "background" in printed and "lite-two-thirds" not in printed.partition("cut")[0]
    if shell == "bash":
        script = printed + "\nCOMP_WORDS=(u2slim cut --thr); COMP_CWORD=2; _shtab_u2slim; echo ${COMPREPLY[@]}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        assert set(done.stdout.split()) == {"--threshold", "--threads"}
