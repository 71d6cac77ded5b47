"""What every command of research shares beside its settings' values: help, renamed choices, where it runs."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import REPO, run
from u2slim.cli import research_command
from u2slim.command_help import help_text
from u2slim.overrides import readable

COMMANDS = {
    "train": "train.py",
    "eval": "eval.py",
    "export": "export.py",
    "doctor": "u2slim.data.doctor",
    "fetch": "u2slim.data.fetch",
    "preview": "u2slim.data.preview",
    "workspace": "u2slim.report.workspace",
    "prune": "u2slim.compress.prune",
    "ranks": "u2slim.compress.ranks",
    "selection": "u2slim.evaluation.selection",
    "report": "u2slim.report",
    "demo": "u2slim.report.demo",
    "showcase": "u2slim.report.showcase",
}


def help_of(name: str, *overrides: str) -> str:
    return help_text(name, overrides, [REPO / "conf"])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_every_setting_with_its_comment_and_three_examples(name):
    text = " ".join(help_of(name).split())
    lines = (REPO / "conf" / f"{name}.yaml").read_text().split("\nhydra:")[0].splitlines()
    examples = [line[2:] for line in lines[1:4]]
    # `make demo` is how the demo is made.
    assert all(COMMANDS[name].removesuffix(".py") in example or example == "make demo" for example in examples)
    assert all(example in text for example in examples)
    for line in lines[4:]:
        setting, _, comment = line.strip().partition("#")
        key, _, value = setting.removeprefix("- ").partition(":")
        assert " ".join(comment.split()) in text, line
        if key not in ("", "defaults", "_self_", "hydra", "export") and not key.startswith("override"):
            assert f"{key}={value.strip()}" in text, line
    assert "hydra/" not in text.replace("hydra/launcher", "") and "--hydra-help" in text


def test_help_has_the_groups_of_its_command_and_the_settings_of_what_is_chosen():
    train = help_of("train")
    assert re.search(r"optimizer=adam +adam\|adamw\|", train) and re.search(r"\n  seed=0 ", train)
    assert re.search(r"optimizer.lr=1e-3\n", train) and re.search(r"model.width=full +full \| lite", train)
    assert "_target_" not in train and "_partial_" not in train and "hydra.sweep" not in train
    assert "optimizer" not in help_of("doctor") and "model" not in help_of("doctor")
    assert "model.conv.groups=2" in help_of("train", "model=grouped") and "model.conv.groups" not in train
    semantic = help_of("train", "task=semantic", "model=pspnet")
    assert "loss.weights=[1.0, 0.4, 0.16]" in semantic and "Settings of model=pspnet   # 49 M parameters" in semantic
    isnet = help_of("train", "model=isnet", "model/conv=grouped")
    assert re.search(r"\n  model/conv=grouped +standard \| grouped \| dwsep \| lowrank\n", isnet)
    assert "Settings of model=isnet   # IS-Net" in isnet and "model.conv.groups=2" in isnet
    assert "model.conv.share=0.5" in help_of("train", "model=isnet", "model/conv=lowrank")
    demo = help_of("train", "experiment=demo")
    assert "data.batch_size=8 " in demo and "Settings of data=sample " in demo


def test_help_is_printed_by_scripts_and_modules_and_knows_a_users_own_configs(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text("# My own.\nwidth: lite # is mine\n")
    for command in (["train.py", "model=isnet", "model/conv=dwsep"], ["u2slim.data.doctor"]):
        printed = run(*command, "--help", cwd=tmp_path)
        assert "Flags of Hydra" in printed and ("model/conv=dwsep " in printed) == (command[0] == "train.py")
    printed = run("export.py", "--config-dir", str(tmp_path), "model=mine", "-h", cwd=tmp_path)
    assert "|lowrank|mine|" in printed and re.search(
        "Settings of model=mine   # My own.\n  model.width=lite +is mine", printed
    )


def test_a_renamed_choice_still_works_and_says_so(tmp_path):
    arguments, notes = readable(["experiment=plan", "init=random"])
    assert arguments == ["experiment=baseline", "init=random"]
    assert notes == ["experiment=plan is now called experiment=baseline"]
    assert readable(["-m", "experiment=demo,plan"])[0] == ["-m", "experiment=demo,baseline"]
    old = ["export.least_iou=0.9", "export.most_loss=0.1", "export.outputs=fused", "callbacks.stop.fused=1"]
    new = ["export.min_iou=0.9", "export.max_loss=0.1", "export.outputs=first", "callbacks.stop.answer=1"]
    arguments, notes = readable(old)
    assert arguments == new and notes[0] == "export.least_iou is now called export.min_iou" and len(notes) == 4
    assert readable(["experiment=baseline", "data.root=plan"]) == (["experiment=baseline", "data.root=plan"], [])
    printed = run("train.py", "experiment=plan", "trainer=cpu", "data.root=nowhere", cwd=tmp_path, ok=False)
    assert "INFO experiment=plan is now called experiment=baseline" in printed
    assert "No data under data.root=nowhere" in printed


def test_without_a_clone_a_command_says_where_it_runs(monkeypatch, tmp_path):
    monkeypatch.setattr("u2slim.cli.CONFIGS", tmp_path / "conf")
    with pytest.raises(SystemExit, match=r"from a clone.*pip install -e '.\[train\]' there"):
        research_command("train")(lambda cfg: None)()


def test_the_doors_are_thin_and_the_command_line_imports_no_torch():
    for door in ("train.py", "eval.py", "export.py"):
        assert len((REPO / door).read_text().splitlines()) <= 60
    loaded = "import sys, u2slim.cli; print(sorted({'torch', 'cv2', 'u2slim.runtime'} & set(sys.modules)))"
    env = os.environ | {"PYTHONPATH": str(REPO / "src")}
    done = subprocess.run([sys.executable, "-c", loaded], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
