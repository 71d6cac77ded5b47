"""From a net to ONNX files that are proved to agree with it."""

from u2slim.export.calibration import Gate
from u2slim.export.deploy import PRECISIONS, Deployment
from u2slim.export.half import store_in_half
from u2slim.export.parity import Row, check_parity, reference_of
from u2slim.runtime.onnx_writer import KINDS, convert, write_onnx

__all__ = [
    "KINDS",
    "PRECISIONS",
    "Deployment",
    "Gate",
    "Row",
    "check_parity",
    "convert",
    "reference_of",
    "store_in_half",
    "write_onnx",
]
