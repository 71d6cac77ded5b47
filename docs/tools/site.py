"""What the site has that no file in docs/ holds: the settings, the commands, the shipped nets; MkDocs calls it."""

import os
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from u2slim.command_help import read_config

HOME = Path(__file__).parents[2]
CONF = HOME / "conf"
COMMANDS = ("cut", "watch", "video", "serve", "nets", "completion")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, content in {
        "reference/settings.md": settings(),
        "reference/commands.md": commands(),
        "reference/nets.md": (HOME / "src/u2slim/nets/README.md").read_text().replace("../../../docs/", "../"),
    }.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to the code lead out of the site, where there is nothing: their text stays."""
    home = Path(config.docs_dir) / page.file.src_uri

    def kept(link: re.Match) -> str:
        path = (home.parent / link[2].partition("#")[0]).resolve()
        if "://" in link[2] or link[2].startswith("#") or path.is_relative_to(config.docs_dir):
            return link[0]
        if path == HOME / "src/u2slim/nets/README.md":
            up = "../" * (len(Path(page.file.src_uri).parts) - 1)
            return f"[{link[1]}]({up}reference/nets.md{link[2][link[2].find('#') :] if '#' in link[2] else ''})"
        return link[1]

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", kept, markdown)


def settings() -> str:
    """Every file of conf/ with its settings and their comments, a group after the other."""
    parts = ["# Settings\n\nEach command takes `NAME=VALUE`, and `GROUP=CHOICE` for a file of a group."]
    parts += [config_page(path, f"## {path.stem}") for path in sorted(CONF.glob("*.yaml"))]
    groups = sorted({path.parent for path in CONF.glob("*/**/*.yaml")} - {CONF / "hydra"})
    for group in groups:
        name = group.relative_to(CONF)
        if name.parts[0] == "hydra":
            continue
        parts.append(f"## {name}=")
        parts += [config_page(path, f"### {name}={path.stem}") for path in sorted(group.glob("[!_]*.yaml"))]
    return "\n\n".join(parts) + "\n"


def config_page(path: Path, title: str) -> str:
    config = read_config(path, "")
    examples = [line for line in config.head if re.match(r"(python|u2slim|make) ", line)]
    said = [line for line in config.head if line not in examples]
    rows = [f"| `{one.name}` | `{one.value}` | {' '.join((*one.above, one.comment))} |" for one in config.settings]
    parts = [title, " ".join(said)]
    if examples:
        parts.append("```\n" + "\n".join(examples) + "\n```")
    if rows:
        parts.append(
            "\n".join(["| setting | default | |", "|---|---|---|", *(row.replace("|null", "\\|null") for row in rows)])
        )
    return "\n\n".join(part for part in parts if part)


def commands() -> str:
    """What `--help` prints of every command of the package."""
    parts = ["# Commands\n\nWhat each command prints with `--help`."]
    for name in ("", *COMMANDS):
        words = [sys.executable, "-m", "u2slim.app.main", *([name] if name else []), "--help"]
        printed = subprocess.run(
            words, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "100"}
        ).stdout
        parts.append(f"## u2slim {name}".rstrip() + f"\n\n```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
