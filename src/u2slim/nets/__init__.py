"""Shipped nets as ONNX files."""
