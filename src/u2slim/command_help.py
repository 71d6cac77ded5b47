"""What `--help` of a research command prints: its config groups and settings, as the comments in conf/ explain them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

_HIDDEN = ("_target_", "_partial_")  # what builds an object is no setting
_WIDTH = 44  # of the column of names and values


@dataclass(frozen=True)
class Setting:
    """One value in a config file.

    Args:
        name: dotted, as a command line has it.
        value: as the file has it.
        comment: behind the value.
        above: comment lines of their own before it.
    """

    name: str
    value: str
    comment: str = ""
    above: tuple[str, ...] = ()


@dataclass
class ConfigFile:
    """A file of conf/: the comments at its top, its defaults list as (group, choice, comment), and its settings."""

    head: list[str] = field(default_factory=list)
    defaults: list[tuple[str, str | list[str] | None, str]] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)


def help_text(name: str, overrides: Sequence[str], folders: Sequence[Path]) -> str:
    """The help of the command whose config is NAME.yaml, for the choices that `overrides` make.

    Args:
        overrides: of the command line; those of groups decide which settings are listed.
        folders: where config files are looked for, the first first.
    """
    config = read_config(_find(folders, name) or Path(), "")
    asked = dict(text.split("=", 1) for text in overrides if "=" in text)
    groups = {group: (choice, note) for group, choice, note in config.defaults if _is_group(group)}
    chosen = _choices(groups, asked, folders)
    files = list(_chosen_files(chosen, asked, folders))
    own = {setting.name: setting for setting in config.settings}
    description, *examples = config.head
    lines = [description, "", "Examples:", *(f"  {example}" for example in examples)]
    if groups:
        lines += ["", "Groups: GROUP=CHOICE"]
        for group, (choice, note) in groups.items():
            choices = "|".join(sorted({path.stem for folder in folders for path in folder.glob(f"{group}/[!_]*.yaml")}))
            note = note or (own[group].comment if group in own else "")
            lines.append(_row(f"{group}={_shown(choice)}", f"{choices}{f'   # {note}' if note else ''}"))
            for inner, (one, note) in _inner_groups(group, chosen[group], folders).items():
                lines.append(_row(f"{inner}={asked.get(inner, one)}", note))
    # What a file sets that another has declared changes the value there.
    settings = {name: setting for name, setting in own.items() if name not in groups}
    sections = {"Settings: NAME=VALUE": list(settings)}
    for title, file in files:
        for setting in file.settings:
            if known := settings.get(setting.name):
                settings[setting.name] = replace(known, value=setting.value, comment=known.comment or setting.comment)
            elif setting.name not in groups:
                settings[setting.name] = setting
                sections.setdefault(title, []).append(setting.name)
    for title, names in sections.items():
        lines += ["", title]
        for setting in (settings[name] for name in names):
            lines += [f"  # {line}" for line in setting.above]
            lines.append(_row(f"{setting.name}={setting.value}" if setting.value else setting.name, setting.comment))
    lines += ["", "A path is taken as it is typed, so that only the shell may need quotes; ~ is your home folder."]
    lines += ["Flags of Hydra, which composes these settings: --hydra-help"]
    return "\n".join(lines)


def read_config(path: Path, group: str) -> ConfigFile:
    """A config file with the comments of each setting, whose names begin with the package it belongs to."""
    if not path.is_file():
        return ConfigFile()
    text = path.read_text()
    lines = text.splitlines()
    head = []
    for line in lines:
        if not line.startswith("#"):
            break
        head.append(line[1:].strip())
    top, package = len(head), group.replace("/", ".")
    if head and (match := re.fullmatch(r"@package (\S+)", head[0])):
        package = "" if match[1] == "_global_" else match[1]
        head = head[1:]
    root = yaml.compose(text)
    file = ConfigFile(head)
    for key, node in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "defaults":
            file.defaults = [_default(entry, lines) for entry in node.value]
        elif key.value != "hydra":
            prefix = f"{package}." if package else ""
            # The comments at the top are not those of a setting that follows at once.
            file.settings += _settings(key, node, prefix, text, lines, above=key.start_mark.line > top)
    return file


def _settings(
    key: yaml.Node, node: yaml.Node, prefix: str, text: str, lines: Sequence[str], above: bool = True
) -> Iterator[Setting]:
    """The settings of one entry of a mapping; a block of entries below it is gone through, too."""
    name = f"{prefix}{key.value}"
    if key.value in _HIDDEN:
        return
    comments = _comments_above(key.start_mark.line, lines) if above else ()
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        comment = _comment_behind(lines[key.end_mark.line], key.end_mark.column)
        below = [one for k, n in node.value for one in _settings(k, n, f"{name}.", text, lines)]
        if comment or not below:
            target = next((n.value.rpartition(".")[2] for k, n in node.value if k.value == "_target_"), "")
            yield Setting(f"{name} ({target})" if target else name, "", comment, comments)
        yield from below
        return
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        value = "[" + ",".join(text[item.start_mark.index : item.end_mark.index] for item in node.value) + "]"
        yield Setting(name, value, _comment_behind(lines[key.end_mark.line], key.end_mark.column), comments)
        return
    value = text[node.start_mark.index : node.end_mark.index]
    yield Setting(name, value, _comment_behind(lines[node.end_mark.line], node.end_mark.column), comments)


def _comment_behind(line: str, column: int) -> str:
    match = re.match(r":?\s+#\s*(.*)", line[column:])
    return match[1] if match else ""


def _comments_above(row: int, lines: Sequence[str]) -> tuple[str, ...]:
    first = row
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return tuple(line.strip()[1:].strip() for line in lines[first:row])


def _default(entry: yaml.Node, lines: Sequence[str]) -> tuple[str, str | list[str] | None, str]:
    if not isinstance(entry, yaml.MappingNode):
        return entry.value, None, ""
    (key, node), *_ = entry.value
    comment = _comment_behind(lines[node.end_mark.line], node.end_mark.column)
    return key.value, yaml.safe_load(yaml.serialize(node)), comment


def _is_group(entry: str) -> bool:
    return not entry.startswith(("_self_", "override ", "hydra"))


def _choices(
    groups: Mapping[str, tuple[str | list[str] | None, str]], asked: Mapping[str, str], folders: Sequence[Path]
) -> dict[str, str | list[str] | None]:
    """What each group comes to, by the config, the command line, and what a choice chooses of other groups."""
    chosen = {group: choice for group, (choice, _) in groups.items()}
    asked = {group: choice for group, choice in asked.items() if group in groups}
    chosen |= {group: yaml.safe_load(choice) for group, choice in asked.items()}
    for group in groups:
        for name in _listed(chosen[group]):
            defaults = (default for file in _with_bases(group, name, {}, folders) for default in file.defaults)
            for entry, choice, _ in defaults:
                other = entry.removeprefix("override ").lstrip("/")
                if entry.startswith("override ") and other in groups and other not in asked:
                    chosen[other] = choice
    return chosen


def _inner_groups(
    group: str, chosen: str | list[str] | None, folders: Sequence[Path]
) -> dict[str, tuple[str | list[str] | None, str]]:
    """Groups within the chosen files of a group, as `model/conv`: by name their choice and comment."""
    paths = [path for name in _listed(chosen) if (path := _find(folders, f"{group}/{name}"))]
    defaults = [default for path in paths for default in read_config(path, group).defaults]
    return {f"{group}/{name}": (choice, note) for name, choice, note in defaults if choice and _is_group(name) and note}


def _chosen_files(
    chosen: Mapping[str, str | list[str] | None], asked: Mapping[str, str], folders: Sequence[Path]
) -> Iterator[tuple[str, ConfigFile]]:
    """(title, file) for each choice, files that it is based on before it."""
    for group in chosen:
        for name in _listed(chosen[group]):
            title = f"Settings of {group}={name}"
            files = list(_with_bases(group, name, asked, folders))
            if files and (note := " ".join(files[-1].head)):
                title += f"   # {note}"
            yield from ((title, file) for file in files)


def _with_bases(group: str, name: str, asked: Mapping[str, str], folders: Sequence[Path]) -> Iterator[ConfigFile]:
    """The file of a choice, after those that it is based on and those of the groups within it."""
    path = _find(folders, f"{group}/{name}")
    if path is None:
        return
    file = read_config(path, group)
    for entry, choice, _ in file.defaults:
        if choice is None and entry != "_self_":
            yield from _with_bases(group, entry, asked, folders)
        elif isinstance(choice, str) and _is_group(entry):
            inner = f"{group}/{entry}"
            yield from _with_bases(inner, asked.get(inner, choice), asked, folders)
    yield file


def _listed(choice: str | list[str] | None) -> list[str]:
    return [] if choice is None else [str(one) for one in choice] if isinstance(choice, list) else [str(choice)]


def _find(folders: Sequence[Path], name: str) -> Path | None:
    return next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), None)


def _shown(choice: str | list[str] | None) -> str:
    return "null" if choice is None else f"[{','.join(choice)}]" if isinstance(choice, list) else choice


def _row(left: str, right: str) -> str:
    return f"  {left:<{_WIDTH}}  {right}".rstrip()
