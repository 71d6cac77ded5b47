"""The precisions of an exported file, one record each. A new one is an entry of the table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from u2slim.export.calibration import Samples, input_blobs
from u2slim.export.half import compute_in_half, store_in_half
from u2slim.export.int8 import quantise
from u2slim.export.packed import store_packed


class Conversion(Protocol):
    """Writes the file `small` of another precision, from the float file `whole`."""

    def __call__(self, whole: Path, small: Path, samples: Samples) -> object: ...


@dataclass(frozen=True)
class Precision:
    """How a float file becomes one of another precision, and what that must keep to.

    Args:
        name: as `export.precision` has it.
        about: what it does to the graph.
        convert: writes the file, from the float file; None: it is the float file.
        conditioned: whether `export.conditioning` rewrites the float file before, so that rounding costs less.
        photos: whether `convert` looks at photos, so that real ones are better than generated ones.
        exact: whether it must agree with torch within `export.tolerance` everywhere.
        keeps_masks: whether its masks must agree with torch's by `export.min_iou`.
        max_mean: the largest mean difference from torch.
        loads_everywhere: whether every runtime must run it, rather than one.
    """

    name: str
    about: str
    convert: Conversion | None = None
    conditioned: bool = False
    photos: bool = False
    exact: bool = False
    keeps_masks: bool = False
    max_mean: float = 1.0
    loads_everywhere: bool = False


def _stored_in_half(whole: Path, small: Path, samples: Samples) -> None:
    store_in_half(whole, small)


def _computed_in_half(whole: Path, small: Path, samples: Samples) -> None:
    compute_in_half(whole, small, input_blobs(whole, [*samples.photos, *samples.images]))


def _packed(whole: Path, small: Path, samples: Samples) -> None:
    store_packed(whole, small)


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", "as torch has it", exact=True, loads_everywhere=True),
        Precision(
            "fp16",
            "weights in float16, computed in float32",
            _stored_in_half,
            conditioned=True,
            keeps_masks=True,
            loads_everywhere=True,
        ),
        Precision(
            "packed",
            "weights that lie on grids in 2 to 8 bits, others in float16, computed in float32",
            _packed,
            keeps_masks=True,
            loads_everywhere=True,
        ),
        Precision(
            "fp16_compute",
            "computed in float16, too",
            _computed_in_half,
            conditioned=True,
            photos=True,
            keeps_masks=True,
        ),
        Precision(
            "int8",
            "weights and activations in 8 bits",
            quantise,
            conditioned=True,
            photos=True,
            # Rounding does not reach it (`float_layers.MAX_MOVED`), a runtime that computes wrongly does.
            max_mean=0.03,
        ),
    )
}
