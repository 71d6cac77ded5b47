"""The page that compares training runs, made from written run folders."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from tests.conftest import REPO
from u2slim.errors import UserError
from u2slim.report.__main__ import check
from u2slim.report.curves import smooth, write_report
from u2slim.report.runs import read_curves, read_runs

CONFIG = {
    "seed": 0,
    "model": {"_target_": "u2slim.models.U2Net", "width": "lite"},
    "init": {"_target_": "u2slim.compress.init.random"},
    "data": {"root": "/data/here", "seed": 0, "train": ["duts_tr"]},
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3},
    "scheduler": None,
}
CHOICES = {"logger": "csv", "scheduler": None, "init": "random", "model": "dwsep", "hydra/help": "default"}


def write_log(folder: Path, rows: list[dict], version: int = 0) -> Path:
    path = folder / f"csv/version_{version}/metrics.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def losses(*values: float, first: int = 0) -> list[dict]:
    return [{"epoch": 0, "step": first + index, "train/fused": value} for index, value in enumerate(values)]


def write_run(folder: Path, *settings: str, choices: dict | None = None, given: tuple = ()) -> Path:
    """A run of three steps and one validation; without .hydra unless there are choices."""
    write_log(folder, [*losses(3, 2, 1), {"epoch": 0, "step": 2, "val/maxF": 0.5}])
    own = {"trainer": {"default_root_dir": str(folder)}, "logger": {"csv": {"save_dir": str(folder)}}}
    cfg = OmegaConf.merge(CONFIG, own, OmegaConf.from_dotlist(list(settings)))
    OmegaConf.save(cfg, folder / "config.yaml")
    if choices is not None:
        (folder / ".hydra").mkdir()
        cfg.data.seed = "${seed}"
        OmegaConf.save(cfg, folder / ".hydra/config.yaml")
        hydra = {"runtime": {"choices": CHOICES | choices}, "overrides": {"task": list(given)}}
        OmegaConf.save({"hydra": hydra}, folder / ".hydra/hydra.yaml")
    return folder


def labels_of(*sources: Path) -> list[str]:
    return [run.label for run in read_runs([str(source) for source in sources])]


PRETRAINED = ("init._target_=u2slim.compress.init.pretrained", "init.weights=/data/u2netp.pth")


@pytest.mark.parametrize("hydra", [True, False])
def test_a_choice_that_differs_explains_what_it_holds(tmp_path, hydra):
    one, two = ({"init": "pretrained"}, {}) if hydra else (None, None)
    write_run(tmp_path / "a", *PRETRAINED, choices=one, given=("init=pretrained", "init.weights=u2netp.pth"))
    write_run(tmp_path / "b", "data.root=/elsewhere", choices=two)
    assert labels_of(tmp_path) == ["init=pretrained", "init=random"]


def test_keys_that_no_choice_explains_are_named(tmp_path):
    write_run(tmp_path / "2", "model.width=full", "seed=1", "data.seed=1", choices={}, given=("model.width=full",))
    grouped = {"model": "grouped", "scheduler": "one_cycle"}
    write_run(tmp_path / "10", "optimizer.lr=0.01", "model.width=lite", choices=grouped)
    assert labels_of(tmp_path) == [
        "model=dwsep scheduler=null model.width=full seed=1 optimizer.lr=0.001",
        "model=grouped scheduler=one_cycle model.width=lite seed=0 optimizer.lr=0.01",
    ]


def test_a_key_that_differs_within_a_choice_is_named(tmp_path):
    for name, lr, init in (("a", 0.1, "pretrained"), ("b", 0.2, "pretrained"), ("c", 0.1, "random")):
        write_run(tmp_path / name, f"init.gain={lr}", choices={"init": init})
    assert labels_of(tmp_path) == [
        "init=pretrained init.gain=0.1",
        "init=pretrained init.gain=0.2",
        "init=random init.gain=0.1",
    ]


def test_an_experiment_explains_all_but_what_was_set_by_hand(tmp_path):
    for name, lr in (("a", 0.1), ("b", 0.2)):
        given = (f"experiment={name}", f"seed={int(lr * 10)}")
        changes = (f"optimizer.lr={lr}", f"seed={int(lr * 10)}")
        write_run(tmp_path / name, *changes, choices={"experiment": name, "init": name}, given=given)
    assert labels_of(tmp_path) == ["experiment=a seed=1", "experiment=b seed=2"]


def test_equal_runs_are_told_apart_by_their_folders(tmp_path):
    write_run(tmp_path / "x/train")
    write_run(tmp_path / "_y")
    assert labels_of(tmp_path) == ["_y", "train"]
    write_run(tmp_path / "z/train")
    assert labels_of(tmp_path) == ["_y", "train (x/train)", "train (z/train)"]
    write_run(tmp_path / "s", "seed=1")
    assert labels_of(tmp_path)[:2] == ["seed=0 (_y)", "seed=1"]


def test_many_differences_are_counted(tmp_path):
    for index in range(2):
        write_run(tmp_path / str(index), *(f"task.{letter}={index}" for letter in "abcdefgh"))
    assert labels_of(tmp_path) == ["task.a=0 and 7 more", "task.a=1 and 7 more"]


def test_sources_are_folders_lists_and_globs_and_runs_come_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("sweep/10", "sweep/9", "one [old]"):
        write_run(Path(name))
    Path("sweep/multirun.yaml").write_text("")
    runs = read_runs(["one [old]", "sweep/*", "sweep"])
    assert [str(run.folder) for run in runs] == ["one [old]", "sweep/9", "sweep/10"]


def test_a_resumed_run_goes_on_where_its_later_log_begins(tmp_path):
    write_log(tmp_path, [*losses(5, 4, 3, 99, 98), {"step": 4, "val/MAE": 0.7}, {"step": 1, "val/mIoU": 0.1}], 9)
    write_log(tmp_path, [*losses(2, 1, first=3), {"step": 4, "val/maxF": 0.5}], 10)
    curves = read_curves(tmp_path)
    steps, values = curves["train/fused"]
    assert steps.tolist() == [0, 1, 2, 3, 4] and values.tolist() == [5, 4, 3, 2, 1]
    assert curves["val/maxF"][0].tolist() == [4] and curves["val/mIoU"][0].tolist() == [1]
    assert "val/MAE" not in curves, "from steps that were trained again"


def test_smoothing_is_a_mean_that_keeps_the_first_value():
    steps, values = np.arange(81), np.arange(81.0) ** 2
    smoothed = smooth(steps, values)
    assert smoothed[0] == 0
    assert smoothed[1] == pytest.approx(np.mean([0, 1, 4]))
    assert smoothed[40] == pytest.approx(np.mean(np.arange(38, 43) ** 2))
    assert smoothed[80] == pytest.approx(np.mean(np.arange(78, 81) ** 2))
    values[40], values[50] = np.nan, np.inf
    smoothed = smooth(steps, values)
    assert np.isnan(smoothed[40]) and np.isinf(smoothed[50]) and np.isfinite(smoothed[[39, 41, 49, 51]]).all()
    assert smooth(np.array([3]), np.array([2.0])).tolist() == [2]


def test_page_and_picture_show_the_logged_values(tmp_path, monkeypatch):
    drawn = {}
    plot = "matplotlib.axes.Axes.plot"
    monkeypatch.setattr(plot, lambda axes, x, y, **look: drawn.setdefault((look["color"], len(drawn)), (x, y)))
    write_run(tmp_path / "a")
    write_log(tmp_path / "b <$x$>", [
        {"step": 0, "train_dice": 0.25, "speed/images_per_s": 7, "train/side1": 1},
        {"step": 1, "train_dice": np.nan, "speed/images_per_s": 9, "train/side1": 1},
        {"step": 1, "val/err": 0.125, "train/side1": 1},
    ])  # fmt: skip
    (tmp_path / "b <$x$>/config.yaml").write_text("seed: 0\n")
    panels, _ = write_report(read_runs([str(tmp_path)]), tmp_path / "out")
    assert panels == ["train/fused", "train_dice", "val/err", "val/maxF"]
    curves = [(x.tolist(), y.tolist()) for x, y in drawn.values()]
    assert curves[0] == curves[1] == ([0, 1, 2], [3, 2, 1])
    assert curves[2][1][0] == 0.25 and np.isnan(curves[2][1][1])
    assert curves[4:] == [([1], [0.125]), ([2], [0.5])]


def test_files_open_without_a_network(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b <$x$>", "seed=1")
    _, (image, page) = write_report(read_runs([str(tmp_path)]), tmp_path / "out")
    with Image.open(image) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1500 and picture.height > 700
        assert np.asarray(picture.convert("L")).std() > 10
    html = page.read_text()
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)
    assert re.findall(r'(?:src|href)="(.{22})', html) == ["data:image/png;base64,"]
    assert "b &lt;$x$&gt;</td>" in html and "seed=1</th>" in html
    assert re.search(r"<td>0.5<br><small>0.5 at 2</small>", html)
    assert sorted(path.name for path in page.parent.iterdir()) == ["runs.html", "runs.png"]


def test_damaged_runs_are_left_out_with_a_warning(tmp_path, caplog):
    damages = {
        "empty": b"",
        "header": b"epoch,step,train/fus",
        "words": b"epoch,step,train/fused\n0,0,1.5\n0,one,1.4\n",
        "binary": b"\xff\xfe\x00\x00\n",
        "short": b"epoch,step,train/fused\n0,0\n0,1,1.4\n",
        "other": b"time,loss\n1,2\n",
    }
    for name, content in damages.items():
        (write_run(tmp_path / name) / "csv/version_0/metrics.csv").write_bytes(content)
    (write_run(tmp_path / "config") / "config.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="None of the runs in"):
        read_runs([str(tmp_path)])
    for name in (*damages, "config"):
        assert f"left out: {tmp_path / name}" in caplog.text
    caplog.clear()
    cut = write_run(tmp_path / "cut") / "csv/version_0/metrics.csv"
    cut.write_bytes(b"epoch,step,train/fused\n0,0,1.5\n0,1,1.")
    (run,) = read_runs([str(tmp_path)])
    assert run.curves["train/fused"][1].tolist() == [1.5]
    assert f"{cut} ends within a line" in caplog.text


def test_mistakes_end_in_a_sentence(tmp_path):
    for sources, sentence in (
        (["nowhere"], "No folder at runs=nowhere"),
        (["none*"], r"No folder at runs=none\*"),
        ([str(tmp_path)], "No run at or below"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_runs(sources)
    for settings, sentence in (
        ({"runs": None, "out": None}, "Say runs="),
        ({"runs": "a", "out": None}, "Say out="),
        ({"runs": "", "out": "b"}, "Say runs="),
    ):
        with pytest.raises(UserError, match=sentence):
            check(OmegaConf.create(settings))
    write_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(read_runs([str(tmp_path)]), tmp_path / "file")


def test_the_command(tmp_path):
    write_run(tmp_path / "runs/a")
    write_run(tmp_path / "runs/b", *PRETRAINED)

    def command(*arguments: str) -> subprocess.CompletedProcess:
        call = [sys.executable, "-m", "u2slim.report", *arguments]
        return subprocess.run(call, cwd=REPO, capture_output=True, text=True, timeout=120)

    done = command(f"runs=[{tmp_path}/runs/a, {tmp_path}/runs/b]", f"out={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert f"init=random: {tmp_path}/runs/a" in done.stdout
    assert done.stdout.splitlines()[-1] == f"Look at {tmp_path}/out/runs.png or {tmp_path}/out/runs.html"
    for wrong, sentence in (
        ("rnus=a", "rnus is not a setting of these choices; did you mean runs=null?"),
        ("outputs/a", "outputs/a"),
    ):
        done = command(wrong, "out=b")
        assert done.returncode == 1 and sentence in done.stderr
    done = command("runs=nowhere", "out=x")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "csv/version_*/metrics.csv" in command("--help").stdout
