"""From a net to an ONNX file that is proved to agree with it."""

from src.export.graph import write_onnx
from src.export.parity import Row, check_parity

__all__ = ["Row", "check_parity", "write_onnx"]
