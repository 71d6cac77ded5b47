"""Masks of chosen classes, made by a net that tells classes apart."""

from collections.abc import Iterator, Sequence

import numpy as np

from u2slim.errors import UserError
from u2slim.images.masks import class_shares
from u2slim.runtime.runner import Runner


class ClassMasks(Runner):
    """A semantic net as one that makes masks: each pixel's probability of being of any of the chosen classes.

    That is the sum of their softmax probabilities, taken at the net's own resolution.

    Args:
        runner: of the net.
        classes: names of the net's; the order plays no part.

    Raises:
        UserError: the net has no such class, or tells none apart.
    """

    def __init__(self, runner: Runner, classes: Sequence[str]):
        super().__init__(runner.size, runner.stretch)
        self.runner, self.runtime, self.together = runner, runner.runtime, runner.together
        self.numbers = _numbers(runner, classes)

    def fingerprint(self) -> str:
        return f"{self.runner.fingerprint()} classes {self.numbers}"

    def probability(self, image_HW3: np.ndarray) -> np.ndarray:
        return self._share(self.runner.logits(image_HW3))

    def infer_group(self, images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        return map(self._share, self.runner.infer_group(images))

    def _share(self, logits_CHW: np.ndarray) -> np.ndarray:
        share_HW: np.ndarray = class_shares(self._finite(logits_CHW))[self.numbers].sum(0)
        return share_HW


def _numbers(runner: Runner, classes: Sequence[str]) -> list[int]:
    if not runner.labels:
        raise UserError(
            f"{', '.join(classes)}: this net makes masks of the subject and knows no classes. Choose none, or give a "
            "net that tells classes apart."
        )
    names = list(runner.labels["names"])
    if not classes:
        raise UserError(f"No class is chosen: choose some of {', '.join(names)}.")
    if unknown := [name for name in classes if name not in names]:
        raise UserError(f"{unknown[0]} is no class of this net: choose some of {', '.join(names)}.")
    return sorted({names.index(name) for name in classes})
