"""From a net to ONNX files that are proved to agree with it."""

from src.export.calibration import Gate
from src.export.deploy import PRECISIONS, Deployment
from src.export.graph import KINDS, write_onnx
from src.export.parity import Row, check_parity

__all__ = ["KINDS", "PRECISIONS", "Deployment", "Gate", "Row", "check_parity", "write_onnx"]
