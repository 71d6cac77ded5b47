"""From a net to ONNX files that are proved to agree with it."""

from src.export.calibration import Gate
from src.export.deploy import PRECISIONS, Deployment
from src.export.graph import KINDS, convert, write_onnx
from src.export.parity import Row, check_parity, reference_of
from src.export.precision import store_in_half

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
