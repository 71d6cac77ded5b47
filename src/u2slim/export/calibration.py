"""What a conversion may cost: photos to see activations on, and the score that a file loses beside the float one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from u2slim.data.dataset import load_pair
from u2slim.data.pairs import Pair
from u2slim.evaluation.class_counts import confusion_of
from u2slim.evaluation.confusion import scores
from u2slim.evaluation.results import CURVES
from u2slim.evaluation.scoring import score
from u2slim.images.masks import to_8bit
from u2slim.runtime.file_runner import FileRunner
from u2slim.runtime.onnx_runners import OnnxRuntimeRunner

Scored = tuple[np.ndarray, np.ndarray]  # an image, and its mask or classes


@dataclass(frozen=True)
class Gate:
    """How much maxF, or of classes mIoU, may be lost, and where it is measured.

    On photos with masks or classes it is the field's score; without any, the float net's own masks, cut at 1/2, or its
    own classes are the truth on the given images.
    """

    pairs: Sequence[Pair]
    images: Sequence[np.ndarray]
    max_loss: float = 0.01

    def __str__(self) -> str:
        if self.pairs:
            return f"{len(self.pairs)} images of {' and '.join(dict.fromkeys(pair.set for pair in self.pairs))}"
        return f"the float net's own answers on {len(self.images)} images"

    def loss_beside(self, float_net: FileRunner) -> Callable[[FileRunner], float]:
        """What gives the score of the float net, computed once, less that of another."""
        score_of = mean_iou if float_net.labels else max_f
        own = [] if self.pairs else list(self._own_truth(float_net))

        def found(net: FileRunner) -> float:
            return score_of(net, map(load_pair, self.pairs) if self.pairs else own)

        before = found(float_net)
        return lambda small: before - found(small)

    def _own_truth(self, float_net: FileRunner) -> Iterator[Scored]:
        for image in self.images:
            if float_net.labels:
                yield image, float_net.class_map(image)
                continue
            truth = 255 * (float_net(image) > 0.5).astype(np.uint8)
            if truth.any():
                yield image, truth


@dataclass(frozen=True)
class Samples:
    """What a conversion may look at.

    Args:
        images: RGB images of any size, those that files are compared on.
        photos: likewise, like those to come, for the ranges of activations.
        gate: what the conversion may cost, and where that is measured.
        onnx2tf: the program that makes files for LiteRT.
    """

    images: Sequence[np.ndarray]
    photos: Sequence[np.ndarray]
    gate: Gate
    onnx2tf: str = "onnx2tf"


def max_f(net: FileRunner, scored: Iterable[Scored]) -> float:
    """The maxF of a net's masks of images with their masks; 0 without any."""
    curves = [score(to_8bit(net(image)), truth).curves[CURVES.index("F")] for image, truth in scored]
    return float(np.mean(curves, 0).max()) if curves else 0.0


def mean_iou(net: FileRunner, scored: Iterable[Scored]) -> float:
    """The mIoU of a net's classes on images with their classes, over all pixels together."""
    assert net.labels is not None
    names = net.labels["names"]
    confusion_CC = sum(confusion_of(net.class_map(image), truth, len(names)) for image, truth in scored)
    return scores(np.asarray(confusion_CC), names)["mIoU"]


def input_blobs(path: Path, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What onnxruntime is given by a file of ours for RGB images of any size."""
    runner = OnnxRuntimeRunner(path)
    return [{runner.input: runner.blob(runner.resized(image))} for image in images]


def values_of(
    model: onnx.ModelProto, names: Sequence[str], blobs: Iterable[dict[str, np.ndarray]]
) -> Iterator[dict[str, np.ndarray]]:
    """For each of the inputs these computed values, by name."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs = {output.name for output in model.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for blob in blobs:
        yield dict(zip(names, session.run(names, blob), strict=True))


def largest_values(model: onnx.ModelProto, blobs: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """The largest magnitude that each computed value takes on the inputs, by the value's name."""
    names = [name for node in model.graph.node for name in node.output]
    largest = dict.fromkeys(names, 0.0)
    for values in values_of(model, names, blobs):
        for name, value in values.items():
            largest[name] = max(largest[name], float(np.abs(value).max(initial=0)))
    return largest
