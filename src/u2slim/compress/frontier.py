"""A net run convolution by convolution over many photos, with only what later convolutions still need.

A forward pass of a batch holds the maps of all its photos at once, which at 44 million parameters and 1024 pixels is
half a gigabyte for each. Here a net is a graph of its calls (torch.fx), evaluated as far as one convolution's input,
photo by photo. What convolutions and sums make is kept on disk in float16, everything else is made anew: it is cheap.
"""

import operator
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from u2slim.models.conv import ConvVariant
from u2slim.models.fcn import cut
from u2slim.models.pyramid import context, pooled
from u2slim.models.resize import upsample

HALF_MAX = 60_000.0
_AS_ONE = (upsample, context, pooled, cut)  # functions that look at sizes, which a graph does not know


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ConvVariant) or super().is_leaf_module(m, module_qualified_name)


class Frontier:
    """What reaches each convolution of a net, for photos that are too many for one batch.

    Ask for the convolutions in the order in which photos reach them. One that is refilled after its input was asked for
    acts refilled in all that follows.

    Args:
        net: in evaluation mode.
        input_N3HW: normalised photos.
        folder: an empty folder for what is kept: at most the maps that are alive at one point, in float16.
        run: so many photos go through the net at a time.
    """

    def __init__(self, net: nn.Module, input_N3HW: Tensor, folder: Path, run: int = 1):
        self.net, self.parts, self.folder = net, input_N3HW.split(run), folder
        graph = _Tracer(autowrap_functions=_AS_ONE).trace(net, concrete_args={"upsampled": True})
        self.modules = {node: net.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"}
        convolutions = [node for node, module in self.modules.items() if isinstance(module, ConvVariant | nn.Conv2d)]
        sums = [node for node in graph.nodes if node.target in (operator.add, operator.iadd, torch.add)]
        self.kept = {node: number for number, node in enumerate((*convolutions, *sums))}
        self.order = {self.modules[node]: node for node in convolutions}
        self.done: dict[fx.Node, int] = {}  # of the parts whose value is on disk

    def inputs(self, conv: nn.Module) -> Iterator[Tensor]:
        """What reaches a convolution, (run, C, H, W) at a time, in the photos' order."""
        (node,) = self.order[conv].all_input_nodes
        for part in range(len(self.parts)):
            yield self._value(node, part, {})

    def visit(self, convs: Mapping[str, nn.Module]) -> Iterator[str]:
        """The names of convolutions in the order in which photos reach them; what no later one needs is dropped."""
        places = list(self.order)
        names = sorted(convs, key=lambda name: places.index(convs[name]))
        for number, name in enumerate(names):
            yield name
            self.forget([convs[later] for later in names[number:]])

    def forget(self, to_come: Collection[nn.Module]) -> None:
        """Drop from disk what none of the convolutions that are still to come needs."""
        needed: set[fx.Node] = set()
        seen: set[fx.Node] = set()
        stack = [node for conv in to_come for node in self.order[conv].all_input_nodes]
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if self.done.get(node, 0) == len(self.parts):
                needed.add(node)
            else:
                stack.extend(node.all_input_nodes)
        for node in [node for node in self.done if node not in needed]:
            for part in range(self.done.pop(node)):
                self._path(node, part).unlink()

    def _value(self, node: fx.Node, part: int, made: dict[fx.Node, Any]) -> Any:
        if node in made:
            return made[node]
        if node.op == "placeholder":
            value = self.parts[part]
        elif part < self.done.get(node, 0):
            value = _load(self._path(node, part))
        else:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda own: self._value(own, part, made))
            if node.op == "call_module":
                value = self.modules[node](*args, **kwargs)
            elif node.op == "call_method":
                value = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            elif node.op == "get_attr":
                value = operator.attrgetter(str(node.target))(self.net)
            else:
                assert callable(node.target)
                value = node.target(*args, **kwargs)
            if node in self.kept:
                value = _save(value, self._path(node, part))
                self.done[node] = part + 1
        made[node] = value
        return value

    def _path(self, node: fx.Node, part: int) -> Path:
        return self.folder / f"{self.kept[node]}-{part}"


def _save(map_BCHW: Tensor, path: Path) -> Tensor:
    """Write a map, and return it as it will be read: a run that continues later computes the same."""
    kind = torch.float32 if float(map_BCHW.abs().max()) > HALF_MAX else torch.float16
    values_BHWC = map_BCHW.permute(0, 2, 3, 1).contiguous().to(kind)
    with path.open("wb") as file:
        np.save(file, values_BHWC.numpy())
    return values_BHWC.float().permute(0, 3, 1, 2)


def _load(path: Path) -> Tensor:
    with path.open("rb") as file:
        return torch.from_numpy(np.load(file)).float().permute(0, 3, 1, 2)
