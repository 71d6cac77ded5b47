"""The four command-line doors, run as a user runs them."""

import csv
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from tests.conftest import REPO, THREADS, TINY, children, cut, run, write_set
from u2slim.evaluation.results import SCORES
from u2slim.runtime.onnx_writer import write_onnx
from u2slim.zoo import open_net

STEPS = ("trainer.max_steps=4", "callbacks.checkpoint.every_n_train_steps=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data root and a run of four steps on it."""
    folder = tmp_path_factory.mktemp("trained")
    write_set(folder / "data" / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 8)
    write_set(folder / "data" / "ecssd", "images", "ground_truth_mask", 3, first=8)
    printed = run("train.py", "model=dwsep", "init=random", *TINY, *STEPS, "hydra.run.dir=outputs/run", cwd=folder)
    return folder, printed


def checkpoint(path):
    return torch.load(path, weights_only=True)


def test_a_run_leaves_config_logs_checkpoints_metrics_and_pictures(trained):
    folder, printed = trained
    names = {path.relative_to(folder / "outputs/run").as_posix() for path in (folder / "outputs/run").rglob("*")}
    assert {"config.yaml", "metrics.json", "pictures/step_000002.png", "pictures/step_000004.png"} <= names
    assert {f"checkpoints/{name}.ckpt" for name in ("step_000002", "step_000004", "last")} <= names
    assert "INFO trained u2net-lite-dwsep to step 4" in printed
    assert re.search(r"HKU-IS.* under data: continuing without", printed)
    assert "${" not in (folder / "outputs/run" / "config.yaml").read_text()

    with (folder / "outputs/run/csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [row for row in rows if row["train/loss"]]
    assert len(steps) == 4
    for row in steps:
        terms = [float(row[f"train/{name}"]) for name in ("fused", *(f"side{n}" for n in range(1, 7)))]
        assert float(row["train/loss"]) == pytest.approx(sum(terms), rel=1e-5)
    validations = [row for row in rows if row["val/maxF"]]
    assert len(validations) == 2
    metrics = json.loads((folder / "outputs/run/metrics.json").read_text())
    assert metrics["step"] == 4
    assert metrics["val/maxF"] == pytest.approx(float(validations[-1]["val/maxF"]), abs=1e-6)


def test_picture_shows_image_mask_and_prediction(trained):
    folder, _ = trained
    grid = np.asarray(Image.open(folder / "outputs/run/pictures/step_000004.png"))
    assert grid.shape == (3 * 64, 3 * 64, 3)
    mask = grid[:64, 64:128]
    assert set(np.unique(mask)) & {255} and (mask[..., 0] == mask[..., 1]).all()


def test_same_seed_same_weights_and_resuming_goes_on_bit_for_bit(trained):
    folder, _ = trained
    whole = checkpoint(folder / "outputs/run/checkpoints/last.ckpt")
    common = ("model=dwsep", "init=random", *TINY, *STEPS)
    printed = run(
        "train.py", *common, "ckpt_path=outputs/run/checkpoints/step_000002.ckpt", "hydra.run.dir=resumed", cwd=folder
    )
    assert "resuming from outputs/run/checkpoints/step_000002.ckpt" in printed
    resumed = checkpoint(folder / "resumed/checkpoints/last.ckpt")
    run("train.py", *common, "trainer.max_steps=2", "hydra.run.dir=two", cwd=folder)
    (folder / "two/checkpoints/step_000004.ckpt").write_bytes(b"PK")  # as from a disk that lost its power
    printed = run("train.py", *common, "ckpt_path=last", "hydra.run.dir=two", cwd=folder)
    assert "Continuing from the one before" in printed and "step_000002.ckpt" in printed
    extended = checkpoint(folder / "two/checkpoints/last.ckpt")
    for other in (resumed, extended):
        assert other["global_step"] == whole["global_step"] == 4
        for name, tensor in whole["state_dict"].items():
            assert torch.equal(tensor, other["state_dict"][name]), name
        moments = [state["optimizer_states"][0]["state"] for state in (whole, other)]
        assert all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])


def test_a_run_killed_in_the_middle_resumes_to_the_same_bits(trained):
    folder, _ = trained
    common = ("model=dwsep", "init=random", *TINY, "trainer.max_steps=8", "callbacks.checkpoint.every_n_train_steps=4")
    options = (*common, "data.num_workers=2", "data.cache=squares", "augment=strong")
    run("train.py", *options, "hydra.run.dir=unbroken", cwd=folder)
    validated = folder / "killed/pictures/step_000004.png"
    command = [sys.executable, str(REPO / "train.py"), *options, "hydra.run.dir=killed"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=folder, env=os.environ | THREADS, **silent) as process:
        for _ in range(1200):
            if validated.exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it was still at work"
    assert not (folder / "killed/checkpoints/step_000008.ckpt").exists()
    printed = run("train.py", *options, "ckpt_path=last", "hydra.run.dir=killed", cwd=folder)
    assert "resuming from" in printed and "validation images as listed in" in printed
    whole, resumed = (checkpoint(folder / d / "checkpoints/last.ckpt") for d in ("unbroken", "killed"))
    assert whole["global_step"] == resumed["global_step"] == 8
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, resumed["state_dict"][name]), name
    moments, others = (state["optimizer_states"][0]["state"] for state in (whole, resumed))
    for index, moment in moments.items():
        assert all(torch.equal(tensor, others[index][name]) for name, tensor in moment.items()), index


def test_resuming_another_model_or_a_damaged_file_is_refused(trained):
    folder, _ = trained
    printed = run(
        "train.py", "model=grouped", *TINY, "ckpt_path=outputs/run/checkpoints/last.ckpt", cwd=folder, ok=False
    )
    assert "was trained with model" in printed
    (folder / "cut.ckpt").write_bytes((folder / "outputs/run/checkpoints/last.ckpt").read_bytes()[:50_000])
    printed = run("train.py", "model=dwsep", *TINY, "ckpt_path=cut.ckpt", cwd=folder, ok=False)
    assert "cut.ckpt (0.1 MB) cannot be read as a checkpoint" in printed


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["data.root=nowhere"], "No data under data.root=nowhere. Expected"),
        (["model=huge"], "Could not find 'model/huge'"),
        (["model.width=medium"], "model.width=medium is not known; choose one of: full, lite."),
        (["loss.weights=[1,2]"], "loss.weights has 2 numbers; give 7"),
        (["init=pretrained", "init.weights=none.pth"], "No net at none.pth"),
        (["ckpt_path=none.ckpt"], "No net at none.ckpt"),
        # Before data are looked at, which may take long.
        (["data.root=nowhere", "model.width=medium"], "model.width=medium is not known"),
        (["data.root=nowhere", "init=checkpoint", "init.path=none.pth"], "No net at none.pth"),
    ],
)
def test_a_wrong_setting_ends_in_a_sentence(trained, overrides, sentence):
    folder, _ = trained
    printed = run("train.py", "model=dwsep", "init=random", *TINY, *STEPS, *overrides, cwd=folder, ok=False)
    assert sentence in printed
    assert "hydra/_internal" not in printed, "a stack trace instead of a sentence"


def test_a_corrupt_training_image_is_named(trained, duts):
    folder, _ = trained
    path = duts / "DUTS-TR" / "DUTS-TR-Image" / "0003.jpg"
    path.write_bytes(path.read_bytes()[:3000])
    options = ("model=dwsep", "init=random", *TINY, "data.num_workers=1", "data.val_count=1", f"data.root={duts}")
    every = "callbacks.checkpoint.every_n_train_steps=1"
    printed = run("train.py", *options, "trainer.max_steps=20", every, "hydra.run.dir=corrupt", cwd=folder, ok=False)
    assert "0003.jpg cannot be read" in printed
    assert "Original Traceback" not in printed


@pytest.mark.parametrize("debug", ["one_batch", "overfit"])
def test_debug_configs_run(trained, debug):
    folder, _ = trained
    extra = () if debug == "one_batch" else ("trainer.max_steps=2",)
    run("train.py", "model=dwsep", "init=random", *TINY, f"debug={debug}", *extra, cwd=folder)


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ("baseline", (200000, 16, 2000, "full", "pretrained")),
        ("demo", (200, 8, 50, "lite", "random")),
        ("compress", (20000, 12, 1000, "lite", "pretrained")),
    ],
)
def test_experiments_compose(experiment, expected):
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        cfg = compose("train", [f"experiment={experiment}"])
    if experiment == "baseline":  # its net, and averages
        assert cfg.model.stem is None and cfg.init.method == "mean"
    every, init = cfg.callbacks.checkpoint.every_n_train_steps, cfg.init._target_.split(".")[-1]
    assert (cfg.trainer.max_steps, cfg.data.batch_size, every, cfg.model.width, init) == expected


def test_resuming_a_finished_run_keeps_its_scores(trained):
    folder, _ = trained
    options = ("model=dwsep", "init=random", *TINY, *STEPS)
    run("train.py", *options, "ckpt_path=outputs/run/checkpoints/last.ckpt", "hydra.run.dir=again", cwd=folder)
    before, after = (json.loads((folder / d / "metrics.json").read_text()) for d in ("outputs/run", "again"))
    assert after["val/maxF"] == pytest.approx(before["val/maxF"], abs=1e-6)


@pytest.mark.slow
def test_a_schedule_resumes_bit_for_bit_and_only_at_its_length(trained):
    folder, _ = trained
    options = ("model=dwsep", "init=random", *TINY, *STEPS, "scheduler=one_cycle", "data.num_workers=1")
    run("train.py", *options, "hydra.run.dir=cycle", cwd=folder)
    middle = "ckpt_path=cycle/checkpoints/step_000002.ckpt"
    run("train.py", *options, middle, "hydra.run.dir=cycle2", cwd=folder)
    whole, resumed = (checkpoint(folder / d / "checkpoints/last.ckpt") for d in ("cycle", "cycle2"))
    assert all(torch.equal(tensor, resumed["state_dict"][name]) for name, tensor in whole["state_dict"].items())
    printed = run("train.py", *options, middle, "trainer.max_steps=6", cwd=folder, ok=False)
    assert "follows a schedule of 4 steps; resume it with trainer.max_steps=4" in printed


def test_each_door_starts_in_a_fresh_interpreter(tmp_path):
    doors = [[str(REPO / door)] for door in ("train.py", "eval.py", "export.py")] + [["-m", "u2slim.app.main"]]
    doors += [["-m", f"u2slim.{name}"] for name in ("report", "compress.ranks", "data.doctor", "data.fetch")]
    env = os.environ | {"PYTHONPATH": str(REPO / "src")}
    for some in (doors[:2], doors[2:4], doors[4:]):
        started = [
            subprocess.Popen([sys.executable, *d, "--help"], cwd=tmp_path, env=env, stdout=-1, text=True) for d in some
        ]
        for process in started:
            assert len(process.communicate(timeout=300)[0].splitlines()) > 5
            assert process.returncode == 0


def test_eval_scores_many_models_on_many_sets(trained):
    folder, _ = trained
    checkpoint, onnx = "outputs/run/checkpoints/last.ckpt", folder / "a.onnx"
    write_onnx(open_net(folder / checkpoint).net(), 64, onnx)
    write_set(folder / "two/ECSSD", "images", "ground_truth_mask", 3)
    write_set(folder / "two/DUTS-TE", "DUTS-TE-Image", "DUTS-TE-Mask", 4, first=5)
    shutil.copytree(folder / "two/DUTS-TE/DUTS-TE-Mask", folder / "theirs")
    shutil.copytree(folder / "two/ECSSD/ground_truth_mask", folder / "theirs/ECSSD")
    (folder / "theirs/ECSSD/0001.png").unlink()
    data = ("data=[ecssd,duts_te]", "data.test.duts_te=2", "data.root=two")
    options = (f"models=[{checkpoint},a.onnx,theirs]", *data, "latency=1", "report=true", "pictures=1")
    printed = run("eval.py", *options, "hydra.run.dir=scores", cwd=folder)
    assert "theirs on ECSSD: 1 images left out" in printed and "no prediction" in printed
    assert all(name in printed for name in (*SCORES, "run/last", "GMAC", "2/3"))
    report = json.loads((folder / "scores/metrics.json").read_text())
    rows = {(row["data"], row["model"], row["stretch"]): row for row in report["results"]}
    assert len(rows) == 2 * 3 * 2
    assert rows["DUTS-TE", "run/last", True]["images"] == 2
    assert rows["ECSSD", "theirs", True]["maxF"] == 1, "the truth itself"
    for name in ("MAE", "maxF", "relaxF"):
        for stretch in (True, False):
            torch_says = rows["ECSSD", "run/last", stretch][name]
            assert rows["ECSSD", "a", stretch][name] == pytest.approx(torch_says, abs=0.01)
    assert {name: facts["runtime"] for name, facts in report["models"].items()} == {
        "run/last": "torch", "a": "opencv", "theirs": "masks"
    }  # fmt: skip
    made = sorted(path.name for path in (folder / "scores").glob("*.*") if path.is_file())
    assert made == ["eval.log", "images.csv", "metrics.json", "report.html", "table.csv", "table.md", "table.tex"]
    assert (folder / "scores/report.html").read_text().count("<article") == 4

    both = "runtime=[openvino,onnxruntime]"
    run(
        "eval.py", "models={net: a.onnx}", *data, "latency=0", "hydra.run.dir=ov", both, "agree_with=a.onnx", cwd=folder
    )
    report = json.loads((folder / "ov/metrics.json").read_text())
    assert list(report["models"]) == ["net (openvino)", "net (onnxruntime)"]
    assert len(report["results"]) == 8
    for row in report["results"]:
        # Another runtime may put a few pixels on the other side of 1/2.
        assert row["agree_min"] == 1 or (row["model"] == "net (onnxruntime)" and row["agree_min"] > 0.9)
        assert row["maxF"] == pytest.approx(rows[row["data"], "a", row["stretch"]]["maxF"], abs=0.01)


def test_a_killed_evaluation_goes_on_where_it_stood(trained):
    folder, _ = trained
    write_set(folder / "many/ECSSD", "images", "ground_truth_mask", 60)
    options = ("checkpoint=last", "data.root=many", "latency=0", "store=kept.sqlite")

    def finished() -> int:
        with suppress(sqlite3.Error), closing(sqlite3.connect(folder / "kept.sqlite")) as connection:
            return connection.execute("SELECT COUNT(*) FROM images").fetchone()[0]
        return 0

    command = [sys.executable, str(REPO / "eval.py"), *options]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(1200):
            if finished() >= 10 or process.poll() is not None:
                break
            time.sleep(0.05)
        workers = children(process.pid)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it was still at work"
    before = finished()
    assert 10 <= before < 120
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            break
        time.sleep(0.1)
    else:
        pytest.fail("scoring processes outlive the evaluation")
    run("eval.py", *options, "hydra.run.dir=resumed", cwd=folder)
    assert finished() == 120, "both variants of 60 images, none of them under another key"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["models=[none.ckpt]"], "No net at none.ckpt"),
        (["models=[a.onnx]", "checkpoint=last"], "not two of them"),
        (["checkpoint=last", "data=[ecssd,sod]"], "Expected (folders in any case): SOD:"),
        (["checkpoint=last", "stretch=foo"], "stretch=foo: give true, false or [true,false]"),
    ],
)
def test_eval_refuses_in_a_sentence(trained, overrides, sentence):
    folder, _ = trained
    printed = run("eval.py", *overrides, "data.root=data", cwd=folder, ok=False)
    assert sentence in printed and "Traceback" not in printed


def test_exported_files_give_the_checkpoints_masks(trained):
    folder, _ = trained
    source = "outputs/run/checkpoints/last.ckpt"
    for kind in ("embedded", "external"):
        printed = run(
            "export.py", f"checkpoint={source}", f"export.preprocess={kind}", f"export.output={kind}.onnx", cwd=folder
        )
        for word in ("torch", "opencv", "onnxruntime", f"wrote {kind}.onnx"):
            assert word in printed
    masks = {}
    for net, runtime in (
        (source, "torch"),
        ("embedded.onnx", "opencv"),
        ("embedded.onnx", "onnxruntime"),
        ("external.onnx", "opencv"),
        ("external.onnx", "onnxruntime"),
    ):
        output = f"masks/{Path(net).name}-{runtime}"
        options = ("--net", net, "--runtime", runtime, "-o", output, "--mask", "only")
        printed = cut("data/ecssd/images", *options, cwd=folder)
        assert f"3 of 3 photos done with {runtime}" in printed
        paths = sorted((folder / output / "masks").glob("*.png"))
        masks[net, runtime] = np.concatenate([np.asarray(Image.open(path)).ravel() for path in paths]).astype(int)
    expected = masks.pop((source, "torch"))
    assert np.ptp(expected) > 200
    for file, mask in masks.items():
        assert np.abs(mask - expected).max() <= 1, file
    run("eval.py", "checkpoint=embedded.onnx", "data=ecssd", "hydra.run.dir=s", cwd=folder)
    report = json.loads((folder / "s/metrics.json").read_text())
    assert (report["results"][0]["images"], report["models"]["embedded"]["runtime"]) == (3, "opencv")


def test_export_that_disagrees_leaves_no_file(trained):
    folder, _ = trained
    printed = run(
        "export.py", "checkpoint=last", "export.tolerance=1e-12", "export.output=bad/x.onnx", cwd=folder, ok=False
    )
    assert "differs from torch by up to" in printed and "no file was left" in printed
    assert list((folder / "bad").iterdir()) == []


def test_all_doors_take_published_weights_instead_of_a_checkpoint(trained, published):
    folder, _ = trained
    net = ("model=grouped", "model.width=lite", "init=pretrained", f"init.weights={published}", "size=64")
    photos = ("init.folder=data/ecssd/images", "init.size=32", "init.lstsq.rounds=0", "init.lstsq.pixels=100")
    source = (*net, "init.method=project")
    run("eval.py", *net, *photos, "data=ecssd", "hydra.run.dir=published", cwd=folder)
    assert json.loads((folder / "published/metrics.json").read_text())["results"][0]["images"] == 3
    assert "wrote p.onnx" in run("export.py", *source, "export.output=p.onnx", cwd=folder)
    cut("data/ecssd/images", "--net", "p.onnx", "-o", "pub", cwd=folder)
    assert len(list((folder / "pub/masks").iterdir())) == 3
    for door in ("eval.py", "export.py"):
        assert "Say which net to use: either checkpoint=" in run(door, cwd=folder, ok=False)


def test_cut_keeps_names_sizes_and_folders_and_lists_what_failed(trained):
    folder, _ = trained
    photos = folder / "photos"
    (photos / "sub dir").mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (30, 50, 3), np.uint8)
    Image.fromarray(pixels).save(photos / "a.jpg")
    Image.fromarray(pixels[..., 0]).save(photos / "a.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(photos / "deep.png")
    rgba = np.dstack([pixels, np.zeros((30, 50), np.uint8)])
    Image.fromarray(rgba).save(photos / "sub dir" / "clear ü.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(photos / "turned.jpg", exif=exif)
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:600])
    (photos / "notes.txt").write_text("not a photo")

    printed = cut("photos", "-o", "cut", "--net", "last", cwd=folder, ok=False)
    assert "photos/broken.jpg cannot be read" in printed
    assert "5 of 6 photos done with torch: cut" in printed
    names = ["a.jpg.png", "a.png.png", "deep.png", "sub dir/clear ü.png", "turned.png"]
    for kind, mode in (("masks", "L"), ("cutouts", "RGBA")):
        made = sorted(p.relative_to(folder / "cut" / kind).as_posix() for p in (folder / "cut" / kind).rglob("*.png"))
        assert made == names
        for name in names:
            with Image.open(folder / "cut" / kind / name) as image:
                assert image.mode == mode
                assert image.size == ((30, 50) if name == "turned.png" else (50, 30))
    cut("photos/sub dir", "-o", "photos/sub dir", "--net", "last", cwd=folder)
    printed = cut("photos/sub dir", "-o", "photos/sub dir", "--net", "last", cwd=folder)
    assert "1 of 1 photo done" in printed, "the results of the first run are no photos"
    printed = cut("photos/sub dir", "-o", "elsewhere", "--net", "last", cwd=folder)
    assert "1 of 1 photo done" in printed, "nor are those of another run"
    cutout = np.asarray(Image.open(folder / "cut/cutouts/a.jpg.png"))
    np.testing.assert_array_equal(cutout[..., 3], np.asarray(Image.open(folder / "cut/masks/a.jpg.png")))
    np.testing.assert_array_equal(cutout[..., :3], np.asarray(Image.open(photos / "a.jpg")))
    assert np.asarray(Image.open(folder / "cut/cutouts/sub dir/clear ü.png"))[..., 3].max() == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.jpg"], "No photo or folder at none.jpg"),
        (["outputs/run/checkpoints", "-o", "x"], "No photos under outputs/run/checkpoints"),
        ([], "the following arguments are required: INPUT"),
        (["data/ecssd/images", "-o", "x", "--net", "none.onnx"], "No net at none.onnx"),
        (["data/ecssd/images", "-o", "x", "--runtime", "magic"], "invalid choice: 'magic'"),
        (["data/ecssd/images", "-o", "x", "--size", "large"], "--size: large: give a whole number from 1"),
        (["data/ecssd/images", "-o", ""], "-o has no name"),
        (["data/ecssd/images", "-o", "x", "--net", "lite_half"], "No net at lite_half (did you mean lite-half?)"),
        (["data/ecssd/images", "-o", "x", "--net", "data/ecssd/images/0008.jpg"], "0008.jpg is no net: a net's file"),
        (["data/ecssd/images", "-o", "x.png"], "x.png is one file for 3 photos; give a folder"),
        (["data/ecssd/images", "-o", "data/ecssd/images/0008.jpg"], "is one file for 3 photos; give a folder"),
        (["data/ecssd/images/0008.jpg", "-o", "cut.gif"], "cut.gif could be a file or a folder: end it in .png"),
        (["data/ecssd/images", "-o", "x", "--net", "short.onnx"], "is not an ONNX net"),
        (
            ["data/ecssd/images", "-o", "x", "--net", "lite-half", "--size", "256"],
            "runs at 320x320 pixels and",
        ),
    ],
)
def test_cut_refuses_in_a_sentence(trained, arguments, sentence):
    folder, _ = trained
    (folder / "short.onnx").write_bytes(b"\x08\x07 nonsense")
    net = [] if "--net" in arguments else ["--net", "last"]
    printed = cut(*arguments, *net, cwd=folder, ok=False)
    assert sentence in printed and "Traceback" not in printed


def test_cut_puts_single_results_where_one_looks_for_them(trained):
    folder, _ = trained
    Path(folder / "one").mkdir()
    shutil.copy(folder / "data/ecssd/images/0008.jpg", folder / "one/photo.jpg")
    for options, names in (
        ((), ["photo-cut.png"]),
        (("--mask", "also"), ["photo-cut.png", "photo-mask.png"]),
        (("-o", "one/only.png", "--mask", "only"), ["only.png"]),
        (("-o", "one/a.png", "--mask", "also", "--size", "96"), ["a-mask.png", "a.png"]),
    ):
        assert "1 of 1 photo done with torch" in cut("one/photo.jpg", *options, "--net", "last", cwd=folder)
        made = sorted(path.name for path in (folder / "one").glob("*.png"))
        assert made == names
        for name in made:
            with Image.open(folder / "one" / name) as image:
                assert image.mode == ("L" if "mask" in name or name == "only.png" else "RGBA")
            (folder / "one" / name).unlink()
