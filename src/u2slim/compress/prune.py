"""Drop a dense net's weakest filters step by step, re-training between.

    python -m u2slim.compress.prune checkpoint=FILE ratio=.5

As ICNet's authors compress it: a layer's filters are ranked by their L1 norm, and the smallest go. Layers whose outputs
are added share the ranking, by the sum of their norms. Classes are no filters and stay.

The run's folder gets `pruned.ckpt`, which rebuilds its net by itself, and `model/pruned.yaml`, its config: train it on
with `python train.py --config-dir FOLDER model=pruned init=checkpoint init.path=FOLDER/pruned.ckpt ...`.
"""

import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from u2slim.cli import check_whole_number, output_dir, research_command
from u2slim.errors import UserError, missing_extra
from u2slim.files import file_digest, write_whole
from u2slim.models import ConvVariant, Net, StandardConv
from u2slim.models.channels import channels_of
from u2slim.models.memory_format import to_memory_format
from u2slim.overrides import override
from u2slim.repository import TRAIN
from u2slim.sizes import Size
from u2slim.zoo import checkpoints, open_net

log = logging.getLogger(__name__)

# Of the overrides of the checkpoint's own run, those that pruning decides anew.
_OWN_SETTINGS = ("model", "init", "trainer.max_steps", "hydra", "resume", "ckpt_path", "find_lr")


@research_command("prune")
def main(cfg: DictConfig) -> None:
    _check(cfg)
    folder = output_dir()
    path = _source(cfg.checkpoint, folder)
    overrides = _overrides_of(path) if cfg.retrain else []
    net = open_net(path).net()
    size = net.preprocess.size
    full, before = widths(net), _millions(net)
    for step in range(1, cfg.steps + 1):
        prune(net, {name: max(1, round(width * (1 - cfg.ratio * step / cfg.steps))) for name, width in full.items()})
        log.info("step %d of %d: %.2f of %.2f M parameters are left", step, cfg.steps, _millions(net), before)
        if not cfg.retrain:
            continue
        part = folder / f"step{step}"
        _write(net, size, part)
        _train(part, cfg.retrain, [*overrides, *cfg.train])
        net = open_net(part / "train/checkpoints/last.ckpt").net()
    _write(net, size, folder)
    place = str(folder).replace("'", "'\"'\"'")  # within the quotes of a shell
    where = f"--config-dir '{place}' model=pruned init=checkpoint init.path='{place}/pruned.ckpt'"
    log.info("to train it further: python train.py %s and the settings of its training so far", where)


def _source(given: str, folder: Path) -> Path:
    """The checkpoint to prune, which the folder remembers: what lies in it was made of no other."""
    note = folder / "source.json"
    before = json.loads(note.read_text()) if note.is_file() else None
    path = Path(before["path"]) if before and given == "last" else checkpoints.checkpoint_path(given).absolute()
    if given == "last" and (path.parents[2] / "pruned.ckpt").is_file():
        raise UserError(
            f"The last checkpoint, {path}, comes from an earlier pruning; name the one to prune with checkpoint=FILE."
        )
    now = {"path": str(path), "sha256": file_digest(path, "sha256")}
    if before and before["sha256"] != now["sha256"]:
        raise UserError(f"{folder} holds a pruning of {before['path']}, not of {path}; choose another hydra.run.dir.")
    write_whole(note, lambda partial: partial.write_text(json.dumps(now)))
    return path


class _Graph(Protocol):
    """What is used here of torch-pruning's `DependencyGraph`."""

    def is_out_channel_pruning_fn(self, handler: Callable[..., object]) -> bool: ...


def widths(net: nn.Module) -> dict[str, int]:
    """The filters of each convolution, by name."""
    return {name: module.out_channels for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}


def prune(net: Net, keep: Mapping[str, int]) -> None:
    """Leave each convolution but the heads the `keep` filters of the largest L1 norms, in place and in their order.

    Convolutions whose outputs are added keep the same ones, as many as the first of them is to keep.

    Args:
        net: a dense net with `heads`, built by `build_net`; its config gets the channels that are left.
        keep: by the convolution's name, at most as many as it has.

    Raises:
        UserError: the net is not dense, or torch-pruning is not installed.
    """
    if any(isinstance(conv, ConvVariant) and not isinstance(conv, StandardConv) for conv in net.modules()):
        raise UserError(f"{net.name} is not dense: prune the dense net that it was made from.")
    assert net.config is not None, "a net that build_net made"
    tp = _torch_pruning()
    names = {module: name for name, module in net.named_modules()}
    to_memory_format(net.eval(), torch.contiguous_format)
    graph = tp.DependencyGraph().build_dependency(net, torch.zeros(1, 3, 64, 64), verbose=False)
    groups = graph.get_all_groups(ignored_layers=[*net.heads], root_module_types=[nn.Conv2d])
    # All are ranked before any loses the inputs that others drop.
    strengths = {group[0].dep.target.module: filter_strength(graph, group) for group in groups}
    for root, strength in strengths.items():
        drop = strength.argsort(stable=True)[: len(strength) - keep[names[root]]].tolist()
        if drop:
            graph.get_pruning_group(root, tp.prune_conv_out_channels, sorted(drop)).prune()
    net.config = dict(net.config) | {"channels": channels_of(net)}
    net.pruned = True


def filter_strength(graph: _Graph, group: Sequence) -> Tensor:
    """The L1 norm of each filter, summed over the convolutions of a group of torch-pruning's."""
    strengths = (
        dep.target.module.weight.detach().abs().sum((1, 2, 3))[idxs]
        for dep, idxs in group
        if isinstance(dep.target.module, nn.Conv2d) and graph.is_out_channel_pruning_fn(dep.handler)
    )
    return sum(strengths, torch.zeros(()))


def _torch_pruning() -> ModuleType:
    try:
        import torch_pruning
    except ImportError as error:
        raise missing_extra("Pruning", "torch-pruning", "prune") from error
    return torch_pruning


def _check(cfg: DictConfig) -> None:
    if cfg.checkpoint is None:
        raise UserError("Say which net to prune: checkpoint=FILE, or checkpoint=last.")
    check_whole_number(cfg, "steps", 1)
    check_whole_number(cfg, "retrain", 0)
    if not isinstance(cfg.ratio, float) or not 0 < cfg.ratio < 1:
        raise UserError(f"ratio={cfg.ratio}: give the share of filters to drop, between 0 and 1.")


def _overrides_of(path: Path) -> list[str]:
    """What the command line of the checkpoint's run said of its data, loss and training."""
    file = path.absolute().parents[1] / ".hydra" / "overrides.yaml"
    if not file.is_file():
        raise UserError(
            f"{path} is not in its run's folder, so its training settings are unknown: give retrain=0 and train the "
            "pruned net with train.py."
        )
    overrides = [str(text) for text in OmegaConf.load(file)]
    keys = {text: text.split("=")[0].lstrip("+~") for text in overrides}
    return [
        text
        for text, key in keys.items()
        if not any(key == own or key.startswith((f"{own}.", f"{own}/")) for own in _OWN_SETTINGS)
    ]


def _train(part: Path, steps: int, overrides: list[str]) -> None:
    command = [str(TRAIN), "--config-dir", str(part), "model=pruned", *overrides, "init=checkpoint"]
    command += [override("init.path", part / "pruned.ckpt"), f"trainer.max_steps={steps}", "resume=auto"]
    command += [override("hydra.run.dir", part / "train")]
    log.info("training: python %s", shlex.join(command))
    if subprocess.run([sys.executable, *command], check=False).returncode:
        raise UserError(
            f"The training in {part / 'train'} ended with the error above; mend it and give the command again."
        )
    if not (part / "train/metrics.json").is_file():  # SIGTERM ends a training without an error
        raise UserError(
            f"The training in {part / 'train'} was stopped; to continue, give the same command with "
            f"hydra.run.dir={part.parent}."
        )


def _write(net: Net, size: Size, folder: Path) -> None:
    """The net as a checkpoint, and its config."""
    checkpoints.write_net(net, size, folder / "pruned.ckpt")
    assert net.config is not None, "a net that build_net made"
    config = OmegaConf.create(dict(net.config))
    write_whole(folder / "model" / "pruned.yaml", lambda partial: OmegaConf.save(config, partial))


def _millions(net: nn.Module) -> float:
    return sum(p.numel() for p in net.parameters()) / 1e6


if __name__ == "__main__":
    main()
