"""From a net to ONNX files that are proved to agree with it."""
