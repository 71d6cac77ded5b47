"""From an ONNX file of ours to a net for Core ML, by coremltools, which converts here and runs on a Mac alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch

from u2slim.export.calibration import Samples
from u2slim.export.coreml_program import coremltools
from u2slim.export.onnx_graph import OnnxGraph
from u2slim.export.operators import prepare
from u2slim.export.quiet import quietly


def to_coreml(whole: Path, path: Path, precision: str, samples: Samples, metadata: Mapping[str, str]) -> None:
    """Write the ONNX file `whole`, in float32, as the folder `path` (.mlpackage), for iOS 16 and later.

    `fp16` is computed in float16; `int8` has weights in 8 bits and is computed in float16. A file that takes RGB
    0..255 takes pictures, another an array; all give arrays.

    Raises:
        UserError: coremltools is not installed, or an operator is not known to it.
    """
    model = onnx.load(whole)
    prepare(model, "coreml")
    with quietly():
        ct = coremltools()
        shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
        graph = OnnxGraph(model.graph).eval()
        with torch.no_grad():
            traced = torch.jit.trace(graph, torch.rand(*shape), check_trace=False)
        is_picture = metadata.get("u2slim.preprocess") == "embedded"
        picture = ct.ImageType("image", shape=shape, color_layout=ct.colorlayout.RGB)
        made = ct.convert(
            traced,
            inputs=[picture if is_picture else ct.TensorType("image", shape=shape)],
            outputs=[ct.TensorType(model.graph.output[0].name, dtype=np.float32)],
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )
        if precision == "int8":
            config = ct.optimize.coreml.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=512)
            made = ct.optimize.coreml.linear_quantize_weights(
                made, ct.optimize.coreml.OptimizationConfig(global_config=config)
            )
        made.user_defined_metadata.update(metadata)
        made.short_description = f"{metadata.get('u2slim.net', 'net')}: not run before it came here"
        made.save(str(path))
