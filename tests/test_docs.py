"""What the documentation names is there: files behind links, commands, options, settings, and what installs them."""

import doctest
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from tests.conftest import REPO
from u2slim.app import main as app
from u2slim.cli import prepare_hydra
from u2slim.data.sample import render

PAGES = [REPO / name for name in ("README.md", "README.zh.md", "CONTRIBUTING.md", "weights/README.md")]
PAGES += [REPO / "src/u2slim/nets/README.md"]
PAGES += sorted((REPO / "docs").rglob("*.md"))
GROUPS = {str(path.parent.relative_to(REPO / "conf")) for path in (REPO / "conf").rglob("*.yaml")} - {"."}
# What stands for something of the reader's own: NAME, DIR, RUN/last.ckpt, ...
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|\.{3}|.*[$*].*")
# Large, and only their users want them: Ray, and what runs on phones and makes files for it.
UNPINNED = ("hydra-ray-launcher", "ray", "ai-edge-litert", "ai-edge-quantizer", "coremltools", "ncnn", "pnnx")
CONFIGS = {"__main__": "report"}  # of commands whose config is not called as their module
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def shell(page: Path) -> list[str]:
    """The code blocks of a page that are for a shell, which name no language."""
    return [code for language, code in BLOCK.findall(page.read_text()) if not language]


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text())


def quoted(page: Path) -> list[str]:
    """The code within sentences."""
    return re.findall(r"`([^`]+)`", prose(page))


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in the code blocks of a page."""
    for block in shell(page):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"; | && ", line):
                if match := re.match(r"\s*(?:do |srun )?((?:python|u2slim|make) .*)", part):
                    yield shlex.split(match[1], comments=True)


def spoken(page: Path) -> Iterator[list[str]]:
    """The same of the commands within sentences."""
    return (shlex.split(text) for text in quoted(page) if re.match(r"(python|u2slim [a-z]+|make) ", text))


def ids(page: Path) -> str:
    return str(page.relative_to(REPO))


@pytest.mark.parametrize("page", [*PAGES, REPO / "CHANGELOG.md"], ids=ids)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if heading:
            assert heading in headings(path), target


def headings(page: Path) -> list[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)", prose(page), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_are_there_and_take_what_they_are_given(page):
    targets = re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
    for words in (*commands(page), *spoken(page)):
        if words[0] == "u2slim" and "--help" not in words:
            app_options(words[1:])
        elif words[0] == "make":
            assert words[1] in targets, words
        elif words[:2] == ["python", "-m"]:
            assert "__main__" in module(words[2]).read_text(), words
        elif words[0] == "python":
            assert (REPO / words[1]).is_file(), words


def test_examples_in_docstrings_are_true():
    for name in ("u2slim.cutout.segmenter",):
        results = doctest.testmod(importlib.import_module(name))
        assert results.attempted and not results.failed


def test_python_on_the_pages_for_cutting_out_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(render(3, 1)[0]).save("photo.jpg")
    for page in (REPO / "README.md", REPO / "docs/guides/cut.md"):
        for language, code in BLOCK.findall(page.read_text()):
            if language == "python":
                exec(code, {})


def app_options(words: list[str]) -> None:
    """Have the parser of `u2slim` read a command line."""
    with pytest.MonkeyPatch.context() as patch:
        for command in ("cut", "watch", "video", "serve", "nets", "completion"):
            patch.setattr(f"u2slim.app.{command}.run", lambda options: 7)
        assert app.main(words) == 7, words


def module(name: str) -> Path:
    """The file that `python -m NAME` runs."""
    home = REPO / "src" if name.startswith("u2slim") else REPO
    path = home.joinpath(*name.split("."))
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_config_groups_have_the_choices_that_are_named(page):
    code = "\n".join((*shell(page), *quoted(page)))
    for group, choices in re.findall(r"(?<![\w./-])([a-z/]+)=([^\s']+)", code):
        if group not in GROUPS:
            continue
        for choice in choices.strip("[];").split(","):
            known = choice in ("", "null", "pruned") or PLACEHOLDER.fullmatch(choice)
            assert known or (REPO / "conf" / group / f"{choice}.yaml").is_file(), f"{group}={choices}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_research_commands_compose(page):
    prepare_hydra()
    for words in commands(page):
        is_module = words[1] == "-m"
        if words[0] != "python" or "..." in words or (is_module and not words[2].startswith("u2slim.")):
            continue  # three dots are settings of another command
        config = (module(words[2]) if is_module else Path(words[1])).stem
        settings = [word for word in words if "=" in word and not word.startswith("hydra")]
        if "-m" in words[2:]:  # a sweep, whose values stand for one each
            settings = [word for word in settings if "," not in word]
        with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
            compose(CONFIGS.get(config, config), settings)


@cache
def project() -> dict:
    return tomllib.loads((REPO / "pyproject.toml").read_text())["project"]


def requirements(lines: list[str]) -> dict[str, Requirement]:
    read = [Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip()]
    return {canonicalize_name(one.name): one for one in read}


def pinned(file: str) -> dict[str, Requirement]:
    lines = (REPO / file).read_text().splitlines()
    return requirements([line for line in lines if not line.startswith("-r")])


def test_what_is_pinned_is_what_the_package_asks_for():
    extras = {name: requirements(lines) for name, lines in project()["optional-dependencies"].items()}
    core, train = requirements(project()["dependencies"]), extras.pop("train")
    research, development = pinned("requirements.txt"), pinned("requirements-dev.txt")
    optional = {name for extra in extras.values() for name in extra}
    assert research.keys() == core.keys() | train.keys()
    assert development.keys() | research.keys() >= optional - {*UNPINNED}
    assert development.keys() <= optional
    pins = research | development
    for asked in (core, train, *extras.values()):
        for name in asked.keys() & pins.keys():
            assert agree(pins[name], asked[name]), f"{pins[name]} is not within {asked[name]}"
            assert pins[name].extras == asked[name].extras


def agree(pin: Requirement, wanted: Requirement) -> bool:
    """Whether the lowest version of a pin is one that is asked for, and an open pin meets no upper bound."""
    (lowest,) = pin.specifier
    is_open = lowest.operator == ">=" and any(one.operator != ">=" for one in wanted.specifier)
    return lowest.version in wanted.specifier and not is_open


def test_extras_that_are_named_are_there():
    for page in PAGES:
        for extra in re.findall(r"'?\.\[(\w+)\]", page.read_text()):
            assert extra in project()["optional-dependencies"], f"{page.name}: {extra}"
