"""Any path that a shell can hand over is a setting's value, in every command and the processes that it starts."""

import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from tests.conftest import REPO, TINY, random_net, run, write_set
from u2slim.cli import prepare_hydra, take_share
from u2slim.errors import UserError
from u2slim.evaluation.settings import warn_of_idle as warn_of_idle_evaluation
from u2slim.export.run import warn_of_idle as warn_of_idle_export
from u2slim.models import DepthwiseSeparableConv
from u2slim.overrides import expand_home, is_path, override, readable

NASTY = [
    *("/home/josé/my data (1)", "a,b.pth", "it's", 'say "hi"', "[old]", "[a,b]", "{a:b}", "{a", "x=y", "a&b", "#1"),
    *("$x", "-dash", "--help", "-m", "2024", "1e3", "1_000", "007", "true", "No", "nan", "inf", "a\nb", "tab\there"),
    *("two  spaces", " before", "after ", "a:b", "a;b", "a|b", "a<b>", "`x`", "50%", "^", "~", "~x", "a~b", "*?", "!"),
    *("@", "\\", "a\\b", "a\\,b", "a\\ b", "end\\", "it\\'s", "'a'b", "a'", '"a"b', "choice(a,b)", "range(1,3)"),
    *("str(1)", "f(x)", "(", ")", "日本語", "Ünï", "עברית", "📷.jpg", "\udce9", "$x{y}", "}", "a=b=c", "key=value"),
    *("C:\\data\\(1)", "", ".", "a/b c/d", "null.pth", "1,2", "a, b", ",", "'", '"', "''x", "a#b", "\\'", "\\\\'"),
]
# One name with nearly all of that, for runs from end to end.
WORST = 'it\'s [a] (1), 50% #&$x=y "é"\\ {b}\n日本 *?'


def composed(*overrides: str, config: str = "train") -> DictConfig:
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return compose(config, list(overrides))


@pytest.mark.parametrize("text", NASTY)
def test_a_path_is_the_text_that_was_typed(text):
    arguments, _ = readable([f"out={text}", f"checkpoint={text}"])
    cfg = composed(*arguments, config="showcase")
    assert (cfg.out, cfg.checkpoint) == (text, text)
    assert readable(arguments)[0] == arguments, "a process that is started with it reads the same"
    assert composed(override("out", text), config="showcase").out == text


def test_any_text_at_all_is_read_as_itself():
    alphabet = "ab1 '\"\\,=[](){}$#&~-+.:/é\n\t%@*|"
    rng = random.Random(0)
    parser = OverridesParser.create()
    for _ in range(400):
        text = "".join(rng.choices(alphabet, k=rng.randint(1, 9)))
        if "${" in text or (text[0] == text[-1] and text[0] in "'\"" and len(text) > 1):
            continue  # an interpolation, and what is quoted for Hydra
        (argument,), _ = readable([f"data.root={text}"])
        assert parser.parse_override(argument).value() == text, (text, argument)
        assert readable([argument])[0] == [argument]


@pytest.mark.parametrize("text", ["2024", "a,b", "true", "1e3", "{a:b}", "~x", "it's (1)", "Zürich.jpg"])
@pytest.mark.parametrize(
    ("config", "key", "choice"),
    [
        *(("train", "data.sets.own.images", "data=own"), ("eval", "data.sets.own.masks", "data=own")),
        *(("eval", "agree_with", "data=ecssd"), ("train", "init.lstsq.keep", "init=pretrained")),
        ("eval", "submit", "data=camvid"),
        *(("selection", "davis", "quick=true"), ("selection", "dense", "quick=true"), ("ranks", "measured", "count=1")),
        *(("export", "export.images", "init=random"), ("train", "init.path", "init=checkpoint")),
        *(("train", "+data.sets.mine.images", "data=own"), ("doctor", "+sets.mine.images", "examples=1")),
    ],
)
def test_folders_and_nets_of_any_name_are_texts(config, key, choice, text):
    arguments, _ = readable([choice, f"{key}={text}"])
    if config == "doctor":
        arguments.append("sets={}")
        arguments.reverse()
    assert OmegaConf.select(composed(*arguments, config=config), key.lstrip("+")) == text


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("data.root=null", None),
        ("data.root='a,b'", "a,b"),
        ('data.root="my data"', "my data"),
        ("data.root=${oc.env:HOME_OF_DATA}/sets", "/here/sets"),
        ("data.root=${oc.env:HOME_OF_DATA}/my sets (1)", "/here/my sets (1)"),
        (r"data.root=\${x}", "${x}"),
        ("data.root=data", "data"),
        ("data.cache=007", "007"),
        ("data.shards.duts_tr=/x/[1,2]-*.tar", None),
    ],
)
def test_what_hydra_means_by_a_value_stays(typed, value, monkeypatch):
    monkeypatch.setenv("HOME_OF_DATA", "/here")
    (argument,), _ = readable([typed])
    cfg = composed("+data.shards.duts_tr=" + argument.partition("=")[2] if "shards" in typed else argument)
    if "shards" in typed:
        assert cfg.data.shards.duts_tr == "/x/[1,2]-*.tar"
    elif "cache" in typed:
        assert cfg.data.cache == value
    else:
        assert cfg.data.root == value


@pytest.mark.parametrize(
    "typed",
    [
        *("seed=2024", "optimizer.lr=1e-3", "data.train=[duts_tr]", "loss.weights=[1,1,1,1,1,1,1]", "scheduler=null"),
        *("callbacks=[default,ema]", "~callbacks.ema", "+trainer.max_time='00:01'", "models={net: a.onnx}", "runs=[]"),
        *("callbacks.checkpoint={a:1}", "models=[a.ckpt,b.onnx]", "hydra/launcher=ray", "data.shards={duts_tr: x}"),
        *("--config-dir=a (1)", "-m", "--help", "no override", "hydra.searchpath=[file:///x]", "hydra.job.chdir=true"),
        *('train=["optimizer.lr=0.001"]', "stretch=[true,false]", "export.count=4", "images=4", "sets=[duts_tr,ecssd]"),
    ],
)
def test_other_settings_are_handed_on_untouched(typed):
    assert readable([typed])[0] == [typed]


def test_a_dictionary_of_sets_or_classes_replaces_the_configs_own():
    typed = ["data=own_classes", "data.labels={a: 1}", "data.test={camvid_test: 5}", "data.sets={mine: {images: x}}"]
    arguments, _ = readable(typed)
    cfg = composed(*arguments)
    assert (cfg.data.labels, cfg.data.test, cfg.data.sets.mine.images) == ({"a": 1}, {"camvid_test": 5}, "x")
    assert list(cfg.data.sets) == ["mine"] and readable(arguments)[0] == arguments


def test_flags_and_their_values_are_no_overrides():
    arguments = ["--config-dir", "x=a (1)", "-cn", "y=b (1)", "--config-d", "z=(", "data.root=2024"]
    assert readable(arguments)[0] == [*arguments[:-1], "data.root='2024'"]


def test_what_the_grammar_cannot_read_is_taken_literally_in_any_setting():
    (argument,), _ = readable(["+logger.wandb.notes=first try (of 2), é"])
    assert composed("logger=wandb", argument).logger.wandb.notes == "first try (of 2), é"


def test_lists_of_paths_are_lists_whose_elements_are_paths():
    (argument,), _ = readable(["models=[/home/josé/a.ckpt,2024, 1e3,my net]"])
    assert list(composed(argument, config="eval").models) == ["/home/josé/a.ckpt", "2024", "1e3", "my net"]
    (argument,), _ = readable(["models=['my nets/a.onnx',b (2).onnx]"])
    assert list(composed(argument, config="eval").models) == ["my nets/a.onnx", "b (2).onnx"]
    (argument,), _ = readable(["models={a: b (2).onnx, c: ~/é.ckpt}"])
    cfg = composed(argument, config="eval")
    expand_home(cfg)
    assert cfg.models == {"a": "b (2).onnx", "c": str(Path("~/é.ckpt").expanduser())}
    assert composed(*readable(["runs={é}"])[0], config="report").runs == "{é}"
    (argument,), _ = readable(["runs=a/lr=1,seed=2"])
    assert composed(argument, config="report").runs == "a/lr=1,seed=2"


def test_with_m_commas_are_sweeps_of_paths_and_the_runs_own_folder_is_one_path():
    arguments = ["-m", "data.root=data,later", "init.weights=2024,é.pth,null", "seed=1,2", "data.cache=choice(a,b)"]
    swept, _ = readable([*arguments, "hydra.sweep.dir=a,b", "data.manifest='a,b',c"])
    assert swept == [
        *("-m", "data.root=data,later", "init.weights='2024','é.pth',null", "seed=1,2", "data.cache=choice(a,b)"),
        *("hydra.sweep.dir='a,b'", "data.manifest='a,b',c"),
    ]
    assert readable(["data.root=data,later"])[0] == ["data.root='data,later'"]


def test_a_brace_that_begins_no_interpolation_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"data.root=a\$\{b: .* make a link to it"):
        readable(["data.root=a${b"])
    printed = run("u2slim.data.doctor", "root=a${b", cwd=tmp_path, ok=False)
    assert "would begin an interpolation" in printed and "Traceback" not in printed


def test_home_is_put_in_once_for_every_path_and_nothing_else(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    overrides = ["init=pretrained", "data.root=~/a (1)", "init.weights=~", "data.cache=a/~/b", "+data.shards.x=~/s.tar"]
    arguments, _ = readable([*overrides, "data.unlabelled=~you/b", "logger=wandb", "logger.wandb.group=~/g"])
    cfg = composed(*arguments)
    expand_home(cfg)
    assert (cfg.data.root, cfg.init.weights, cfg.data.cache) == ("/home/me/a (1)", "/home/me", "a/~/b")
    assert (cfg.data.shards.x, cfg.data.unlabelled, cfg.logger.wandb.group) == ("/home/me/s.tar", "~you/b", "~/g")
    cfg = composed(*readable(["models=[~/a.ckpt,b]"])[0], config="eval")
    expand_home(cfg)
    assert list(cfg.models) == ["/home/me/a.ckpt", "b"]
    assert readable(["hydra.run.dir=~/x"])[0] == ["hydra.run.dir='/home/me/x'"]
    assert readable(["hydra.run.dir='~/x'"])[0] == ["hydra.run.dir='/home/me/x'"]


def test_the_process_that_lightning_starts_gets_the_runs_folder_whatever_its_name(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    parser = OverridesParser.create()
    for text in ('a"b', "a\\", "it's", 'x\\"y', "2024"):
        (argument,), _ = readable([f'hydra.run.dir="{text}"'])
        assert parser.parse_override(argument).value() == text


def settings_of(path: Path) -> set[str]:
    """The dotted names in a config file, with the package that it says."""
    group = path.parent.relative_to(REPO / "conf").as_posix().replace("/", ".").strip(".")
    text = path.read_text()
    package = match[1] if (match := re.match(r"# @package (\S+)", text)) else group

    def names(node: object, prefix: str) -> set[str]:
        if not isinstance(node, dict) or not node:
            return {prefix.rstrip(".")}
        return {name for key, value in node.items() for name in names(value, f"{prefix}{key}.")}

    content = {key: value for key, value in (yaml.safe_load(text) or {}).items() if key != "defaults"}
    return names(content, "" if package in ("", "_global_") else f"{package}.")


def test_the_settings_that_are_paths():
    """Where this fails, a setting is new: see that `is_path` is right about it, and write it down here."""
    found = {name for path in (REPO / "conf").rglob("*.yaml") for name in settings_of(path) if is_path(name)}
    assert found == {
        *("checkpoint", "ckpt_path", "config", "folder", "models", "out", "photos", "root", "runs"),
        *("agree_with", "davis", "dense", "measured", "init.lstsq.keep", "data.sets.own.images", "data.sets.own.masks"),
        *("submit", "store", "weights", "task.distill.teacher", "init.folder", "init.path", "init.weights"),
        *(f"data.{name}" for name in ("cache", "manifest", "root", "unlabelled", "shards.duts_tr", "shards.duts_te")),
        *(f"data.{name}" for name in ("images", "masks", "val_images", "val_masks", "val_list")),
        *("own.images", "own.masks", "logger.tensorboard.save_dir"),
        *(f"export.{name}" for name in ("calibration", "images", "onnx2tf", "output", "weights")),
        *(f"callbacks.{name}.folder" for name in ("confusion", "nonfinite", "pictures")),
        *(f"callbacks.{name}.{part}" for name in ("best", "checkpoint") for part in ("dirpath", "filename")),
        *("logger.csv.save_dir", "logger.wandb.save_dir", "trainer.default_root_dir"),
        *("hydra.output_subdir", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"),
        *("hydra.job_logging.handlers.file.filename", "hydra.launcher.submitit_folder"),
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder whose data have the worst of names."""
    folder = tmp_path_factory.mktemp("cli")
    write_set(folder / WORST / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 20)
    return folder


STEPS = ("model=dwsep", "init=random", *TINY, "trainer.max_steps=2", "data.val_count=2")


def test_the_doctor_reads_and_writes_folders_of_any_name(place):
    run("u2slim.data.doctor", f"root={WORST}", f"hydra.run.dir={WORST}/doctor", cwd=place)
    assert json.loads((place / WORST / "doctor/doctor.json").read_text())["sets"]["duts_tr"]["found"] == 20
    not_utf8 = "caf\udce9"
    shutil.copytree(place / WORST / "DUTS-TR", place / not_utf8 / "DUTS-TR")
    run("u2slim.data.doctor", f"root={not_utf8}", f"hydra.run.dir={not_utf8}/doctor", cwd=place)
    assert (place / not_utf8 / "doctor/doctor.md").is_file()


def test_a_run_trains_and_resumes_in_folders_of_any_name(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    data = (f"data.root=~/{WORST}", "data.cache=1e3")
    every = "callbacks.checkpoint.every_n_train_steps=1"
    run("train.py", *STEPS, *data, every, "hydra.run.dir=2024", cwd=place)
    assert (place / "2024/checkpoints/step_000002.ckpt").is_file() and (place / "1e3").is_dir()
    config = yaml.safe_load((place / "2024/config.yaml").read_text())
    assert config["data"]["root"] == f"{place}/{WORST}" and config["data"]["cache"] == "1e3"
    (place / "2024").rename(place / WORST / "2024")
    (place / WORST / "2024/metrics.json").unlink()
    again = (every, f"hydra.run.dir=~/{WORST}/2024", "resume=auto")
    (place / WORST / "2024/checkpoints/step_000002.ckpt").unlink()
    printed = run("train.py", *STEPS, *data, *again, cwd=place)
    assert "resuming from" in printed and "step_000001.ckpt" in printed
    assert json.loads((place / WORST / "2024/metrics.json").read_text())["step"] == 2


@pytest.mark.slow
def test_a_sweep_hands_paths_of_any_name_to_its_jobs(place):
    (place / "é (1)").symlink_to(place / WORST)
    (place / "(2").symlink_to(place / WORST)
    run("train.py", "-m", *STEPS, "data.root=é (1),(2", f"hydra.sweep.dir={WORST}/sweep", cwd=place)
    for job, root in enumerate(("é (1)", "(2")):
        folder = place / WORST / "sweep" / str(job)
        assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["root"] == root
        assert json.loads((folder / "metrics.json").read_text())["step"] == 2


def test_two_processes_share_a_folder_of_any_name(place):
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", f"data.root={WORST}", f"hydra.run.dir={WORST}/ddp")
    run("train.py", *STEPS, *ddp, cwd=place)
    assert json.loads((place / WORST / "ddp/metrics.json").read_text())["step"] == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["u2slim.data.doctor", "rot=3"], "rot is not a setting of these choices; did you mean root=data? See --help."),
        (["eval.py", "data=sampel"], "Could not find 'data/sampel'; choose one of: camvid, cityscapes"),
        (["eval.py", "data=sample", "data.test.sample=2"], "did you mean data.test={ sample_te: null }?"),
        (["export.py", "export.precisoin=fp16"], "did you mean export.precision=fp32?"),
        (["train.py", "+seed=1"], "Could not append to config. An item is already at 'seed'."),
    ],
)
def test_a_mistyped_setting_ends_in_one_sentence(tmp_path, arguments, sentence):
    printed = run(*arguments, cwd=tmp_path, ok=False)
    assert sentence in printed
    assert "HYDRA_FULL_ERROR" not in printed and "Traceback" not in printed and len(printed.splitlines()) == 1


@pytest.fixture
def typed():
    """Composes a config as the command that a user typed."""

    def compose_typed(config: str, *overrides: str) -> DictConfig:
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            cfg = compose(config, list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        return cfg

    prepare_hydra()
    yield compose_typed
    HydraConfig.instance().cfg = None


@pytest.mark.parametrize(
    ("overrides", "idle"),
    [
        (["checkpoint=u2netp", "size=96", "model.width=lite"], ["size, model.width"]),
        (["init=random", "size=96", "model.width=lite"], []),
        (["init=random", "export.calibration=a", "export.max_loss=1", "data=ecssd"], ["calibration", "max_loss, data"]),
        (["init=random", "export.precision=int8", "export.max_loss=1", "data=ecssd", "data.size=64"], ["data.size"]),
        (["init=random", "export.precision=packed", "export.tolerance=1", "export.min_iou=.9"], ["tolerance"]),
        (["init=random", "export.tolerance=1", "export.min_iou=.9"], ["min_iou"]),
    ],
)
def test_settings_of_an_export_that_have_no_effect_are_named(typed, overrides, idle, caplog):
    cfg = typed("export", *overrides)
    warn_of_idle_export(cfg, {cfg.export.precision})
    assert len(caplog.messages) == len(idle)
    assert all(f"{names}, as " in message for names, message in zip(idle, caplog.messages, strict=True))


@pytest.mark.parametrize(
    ("overrides", "idle"),
    [
        (["checkpoint=u2netp", "size=96", "pictures=3", "data.on_bad=skip"], ["data.on_bad", "size", "pictures"]),
        (["init=random", "size=96", "pictures=3", "report=true", "data.root=x"], []),
    ],
)
def test_settings_of_an_evaluation_that_have_no_effect_are_named(typed, overrides, idle, caplog):
    warn_of_idle_evaluation(typed("eval", *overrides))
    assert [message.split(", as ")[0] for message in caplog.messages] == [f"no effect here: {name}" for name in idle]


@pytest.mark.parametrize(
    ("method", "idle"),
    [
        ("mean", ["init.size", "init.lstsq.pixels", "init.count, init.seed"]),
        ("project", ["init.size", "init.lstsq.pixels", "init.count, init.seed"]),
    ],
)
def test_settings_of_a_start_that_have_no_effect_are_named(typed, published, method, idle, caplog):
    asked = ("init.size=64", "init.count=3", "init.seed=1", "init.lstsq.pixels=9")
    cfg = typed("train", "init=pretrained", f"init.method={method}", f"init.weights={published}", *asked)
    instantiate(cfg.init)(random_net(conv=DepthwiseSeparableConv))
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [message.split(", as ")[0] for message in warned] == [f"no effect here: {names}" for names in idle]


@pytest.mark.parametrize(("share", "given", "threads"), [(1, None, 1), (None, None, None), (1, "2", None)])
def test_research_takes_the_threads_of_a_containers_share(monkeypatch, share, given, threads):
    before = torch.get_num_threads()
    monkeypatch.setattr("u2slim.cli.cpu_share", lambda: share)
    monkeypatch.setenv("OMP_NUM_THREADS", given or "")  # so that it is as before at the end
    if not given:
        monkeypatch.delenv("OMP_NUM_THREADS")
    try:
        torch.set_num_threads(3)
        take_share()
        assert torch.get_num_threads() == (threads or 3)
        assert os.environ.get("OMP_NUM_THREADS") == (str(threads) if threads else given)
    finally:
        torch.set_num_threads(before)
        monkeypatch.undo()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "outputs").touch()  # as read-only, which root is not kept by
    printed = run("eval.py", "models=[lite-dwsep]", "data=sample", cwd=tmp_path, ok=False)
    assert "Traceback" not in printed and "Give the run another folder: hydra.run.dir=FOLDER." in printed
