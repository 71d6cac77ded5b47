"""What a conversion may cost: photos to look at activations on, and the maxF that a file loses beside its float net."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from src.data.dataset import load_pair
from src.data.pairs import Pair
from src.evaluation.scoring import score
from src.masks import to_8bit
from src.results import CURVES
from src.runtime.onnx_segmenters import OnnxRuntimeSegmenter


@dataclass(frozen=True)
class Gate:
    """How much maxF may be lost, and where it is measured.

    On photos with masks it is the field's maxF; without any, the float net's own masks, cut at 1/2, are the truth on
    the given images.
    """

    pairs: Sequence[Pair]
    images: Sequence[np.ndarray]
    most: float = 0.01

    def __str__(self) -> str:
        if self.pairs:
            return f"{len(self.pairs)} images of {' and '.join(dict.fromkeys(pair.set for pair in self.pairs))}"
        return f"the float net's own masks of {len(self.images)} images"

    def loss(self, whole: Path, small: Path) -> float:
        """maxF of the file `whole` less that of `small`, both in onnxruntime."""
        float_net, net = OnnxRuntimeSegmenter(whole), OnnxRuntimeSegmenter(small)
        curves = []
        for image, truth in self._scored(float_net):
            masks = (to_8bit(segmenter(image)) for segmenter in (float_net, net))
            curves.append([score(mask, truth).curves[CURVES.index("F")] for mask in masks])
        if not curves:  # no mask has anything in it
            return 0.0
        before, after = np.mean(curves, 0).max(1)
        return float(before - after)

    def _scored(self, float_net: OnnxRuntimeSegmenter) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if self.pairs:
            yield from map(load_pair, self.pairs)
            return
        for image in self.images:
            truth = 255 * (float_net(image) > 0.5).astype(np.uint8)
            if truth.any():
                yield image, truth


def input_blobs(path: Path, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What onnxruntime is given by a file of ours for RGB images of any size."""
    segmenter = OnnxRuntimeSegmenter(path)
    return [{segmenter.input: segmenter.blob(segmenter.resized(image))} for image in images]


def largest_values(model: onnx.ModelProto, blobs: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """The largest magnitude that each computed value takes on the inputs, by the value's name."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output]
    outputs = {output.name for output in model.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    largest = dict.fromkeys(names, 0.0)
    for blob in blobs:
        for name, value in zip(names, session.run(names, blob), strict=True):
            largest[name] = max(largest[name], float(np.abs(value).max(initial=0)))
    return largest
