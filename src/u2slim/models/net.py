"""The base class of nets: all that training, export, scoring and runtimes need to know of one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from u2slim.images.preprocess import U2NET_PREPROCESS, Preprocess

ConvFactory = Callable[..., nn.Module]


class Net(nn.Module):
    """Base of all nets: takes normalised images (B, 3, H, W) and returns a list of logits, the answer first.

    A new net sets `outputs` and defines `name`, `heads`, `stages` and `forward`. It also sets `preprocess` and
    `classes` where they differ from U2-Net's. Nothing else in the project depends on which net it is.

    Attributes:
        outputs: the names of what `forward` returns; the first is the answer, the others serve training.
        preprocess: how a photo becomes the net's input.
        classes: how many classes it tells apart; None: it makes one mask.
        labels: the classes' `names` and `palette`, if its checkpoint has them.
        config: the `model` config that the net was built from.
        pruned: whether pruning has changed its numbers of channels.
    """

    outputs: ClassVar[tuple[str, ...]]
    preprocess: Preprocess = U2NET_PREPROCESS
    classes: int | None = None
    labels: Mapping[str, Sequence] | None = None
    config: Mapping[str, Any] | None = None
    pruned: bool = False

    @property
    def name(self) -> str:
        """The net's name in files and tables, with what differs from the published net."""
        raise NotImplementedError

    @property
    def heads(self) -> list[nn.Module]:
        """The last layers, which make the logits."""
        raise NotImplementedError

    @property
    def stages(self) -> list[nn.Module]:
        """The main blocks in order: activation checkpointing keeps only their outputs, a student may learn these."""
        raise NotImplementedError

    def forward(self, x_BCHW: Tensor, upsampled: bool = True) -> list[Tensor]:
        """Logits (B, C, h, w) for each of `outputs`; C is 1, or the number of classes.

        (h, w) is the input's size; with `upsampled=False` it may be the smaller size at which an output is made.
        """
        raise NotImplementedError

    def own_preprocess(self) -> dict[str, dict[str, str]]:
        """The normalisation to store in checkpoints; empty where it is that of the net's class."""
        entries = self.preprocess.to_metadata()
        return {} if entries == type(self).preprocess.to_metadata() else {"preprocess": entries}

    @classmethod
    def published_modules(cls) -> dict[str, str]:
        """Published module name -> our module name, for all with weights; the same at every width."""
        with torch.device("meta"):
            modules = cls().named_modules()
        return {name: name for name, module in modules if any(True for _ in module.parameters(recurse=False))}

    @classmethod
    def published_keys(cls) -> dict[str, str]:
        """Key in the published file -> our key, for every tensor."""
        with torch.device("meta"):
            net = cls()
        return {
            f"{published}.{tensor}": f"{ours}.{tensor}"
            for published, ours in cls.published_modules().items()
            for tensor in net.get_submodule(ours).state_dict()
        }
