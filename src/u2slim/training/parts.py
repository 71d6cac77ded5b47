"""Parts of a net that training treats in a way of their own: frozen, or with another learning rate."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from u2slim.errors import UserError
from u2slim.models import Net

HEADS = "heads"  # what makes the logits, in every net


def modules_of(net: Net, part: str, setting: str) -> list[nn.Module]:
    """The modules that a name stands for: `heads`, or a module of the net, as `encoder` or `encoder.0`.

    Raises:
        UserError: there is none.
    """
    if part == HEADS:
        return net.heads
    try:
        return [net.get_submodule(part)]
    except AttributeError as error:
        known = [name for name, child in net.named_children() if any(True for _ in child.parameters())]
        raise UserError(
            f"{setting}: {net.name} has no part {part!r}; it has {', '.join([*known, HEADS])}, and parts of "
            f"these, as {known[0]}.0."
        ) from error


def freeze(net: Net, parts: Sequence[str]) -> None:
    """Keep parts of a net from learning; their BatchNorms have to use their running statistics besides.

    Raises:
        UserError: there is no such part, or nothing is left to train.
    """
    if isinstance(parts, str) or not all(isinstance(part, str) for part in parts):
        raise UserError(f"task.freeze={parts}: give parts of the net, e.g. [encoder].")
    for part in parts:
        for module in modules_of(net, part, "task.freeze"):
            module.requires_grad_(False)
    if parts and not any(parameter.requires_grad for parameter in net.parameters()):
        raise UserError(f"task.freeze={list(parts)} leaves nothing to train.")


def parameter_groups(net: Net, rates: Mapping[str, float], lr: float) -> list[Any]:
    """What an optimizer takes: all that trains, in groups where parts have a rate of their own, the rest first.

    Args:
        net: frozen already, where it is.
        rates: factors of the learning rate by part; a part inside another has its own.
        lr: the learning rate.

    Raises:
        UserError: there is no such part, or a factor is not above 0.
    """
    if not rates:
        return [parameter for parameter in net.parameters() if parameter.requires_grad]
    if wrong := [f"{part}: {rate}" for part, rate in rates.items() if type(rate) not in (int, float) or rate <= 0]:
        raise UserError(
            f"task.rates has {wrong[0]}; give factors of the learning rate above 0, and freeze by task.freeze."
        )
    chosen: dict[Any, float] = {}
    for part, rate in sorted(rates.items(), key=lambda one: one[0].count(".")):  # the inner ones last
        for module in modules_of(net, part, "task.rates"):
            chosen |= dict.fromkeys(module.parameters(), rate)
    grouped: dict[float, list[nn.Parameter]] = {1: []}
    for parameter in net.parameters():
        if parameter.requires_grad:
            grouped.setdefault(chosen.get(parameter, 1), []).append(parameter)
    return [{"params": found, "lr": lr * rate, "rate": rate} for rate, found in grouped.items() if found]
