"""What a net is to everything that trains, exports, scores or runs one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from u2slim.images.preprocess import U2NET_PREPROCESS, Preprocess

ConvFactory = Callable[..., nn.Module]


class Net(nn.Module):
    """Base of all nets: normalised images (B, 3, H, W) in, a list of logits out, the answer first.

    A new net says its `outputs` and defines `name`, `heads`, `stages` and `forward`; where they differ from U2-Net's,
    its `preprocess` and `classes`, too. Nothing else in the project asks which net it has.

    Attributes:
        outputs: the names of what `forward` returns; the first is the answer, the others are there for training.
        preprocess: how a photo becomes its input.
        classes: how many classes it tells apart; None: it makes one mask.
        labels: the classes' `names` and `palette`, where its checkpoint knows them.
        config: the `model` config that it was built by.
        pruned: whether its channels are no longer those of its config's class.
    """

    outputs: ClassVar[tuple[str, ...]]
    preprocess: Preprocess = U2NET_PREPROCESS
    classes: int | None = None
    labels: Mapping[str, Sequence] | None = None
    config: Mapping[str, Any] | None = None
    pruned: bool = False

    @property
    def name(self) -> str:
        """The net and what is not as published, for file names and tables."""
        raise NotImplementedError

    @property
    def heads(self) -> list[nn.Module]:
        """What makes the logits."""
        raise NotImplementedError

    @property
    def stages(self) -> list[nn.Module]:
        """The blocks between which little is kept: activation checkpointing cuts here, a student learns these."""
        raise NotImplementedError

    def forward(self, x_BCHW: Tensor, upsampled: bool = True) -> list[Tensor]:
        """Logits (B, C, h, w), one for each of `outputs`, with one channel or one a class.

        (h, w) is the input's size; with `upsampled=False` it may be the smaller size at which an output is made.
        """
        raise NotImplementedError

    def own_preprocess(self) -> dict[str, dict[str, str]]:
        """What checkpoints say of its normalisation, where it is not that of its class."""
        entries = self.preprocess.to_metadata()
        return {} if entries == type(self).preprocess.to_metadata() else {"preprocess": entries}

    @classmethod
    def published_modules(cls) -> dict[str, str]:
        """A module's name in the published net -> ours, for all with weights; the same at every width."""
        with torch.device("meta"):
            modules = cls().named_modules()
        return {name: name for name, module in modules if any(True for _ in module.parameters(recurse=False))}

    @classmethod
    def published_keys(cls) -> dict[str, str]:
        """A published file's key -> ours, for every tensor."""
        with torch.device("meta"):
            net = cls()
        return {
            f"{published}.{tensor}": f"{ours}.{tensor}"
            for published, ours in cls.published_modules().items()
            for tensor in net.get_submodule(ours).state_dict()
        }
