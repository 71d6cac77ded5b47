"""Small images of many kinds and small nets, to be broken by the fuzzer: python seeds.py FOLDER."""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

HEIGHT, WIDTH = 20, 24


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8), "RGBA")
    deep = Image.fromarray(rng.integers(0, 65536, (HEIGHT, WIDTH), np.uint16))
    rgb, turned = rgba.convert("RGB"), Image.Exif()
    turned[0x0112] = 6
    images = {
        "rgb.jpg": (rgb, {"exif": turned}),
        "progressive.jpg": (rgb, {"progressive": True, "restart_marker_blocks": 1}),
        "gray.jpg": (rgb.convert("L"), {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "rgb.png": (rgb, {"exif": turned}),
        "rgba.png": (rgba, {}),
        "palette.png": (rgb.quantize(16), {"transparency": 3}),
        "gray_alpha.png": (rgba.convert("LA"), {}),
        "bit.png": (rgb.convert("1"), {}),
        "deep.png": (deep, {}),
        "lossy.webp": (rgb, {"exif": turned}),
        "alpha.webp": (rgba, {}),
        "lossless.webp": (rgba, {"lossless": True}),
        "rgb.bmp": (rgb, {}),
        "rgba.bmp": (rgba, {}),
        "palette.bmp": (rgb.quantize(16), {}),
        "bit.bmp": (rgb.convert("1"), {}),
        "rgb.tif": (rgb, {}),
        "rgba.tif": (rgba, {"compression": "tiff_lzw"}),
        "deep.tif": (deep, {"compression": "tiff_adobe_deflate"}),
        "bit.tif": (rgb.convert("1"), {"compression": "group4"}),
        "jpeg.tif": (rgb, {"compression": "jpeg"}),
        "palette.tif": (rgb.quantize(16), {"compression": "packbits"}),
    }
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    for preprocess in ("embedded", "external"):
        for dynamic in (False, True):
            onnx.save(small_net(preprocess, dynamic), folder / f"{preprocess}{'_dynamic' * dynamic}.onnx")
    onnx.save(normalised(small_net("embedded")), folder / "normalised.onnx")
    onnx.save(narrowed(small_net("external"), "half"), folder / "half.onnx")
    onnx.save(narrowed(normalised(small_net("embedded")), "int8"), folder / "int8.onnx")
    onnx.save(narrowed(small_net("external"), "packed"), folder / "packed.onnx")
    onnx.save(foreign_net(), folder / "foreign.onnx")


def small_net(preprocess: str, dynamic: bool = False, side: int = 32) -> onnx.ModelProto:
    """A net of every operation that an exported one has, as a model of ours."""
    rng = np.random.default_rng(1)
    weights = {
        "w1": rng.normal(size=(4, 3, 3, 3)),
        "b1": rng.normal(size=4),
        "w2": rng.normal(size=(4, 1, 3, 3)),
        "w3": rng.normal(size=(1, 8, 1, 1)),
        "mean": np.float32([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1),
        "scales": np.float32([1, 1, 2, 2]),
    }
    stored = [
        helper.make_tensor(k, TensorProto.FLOAT, v.shape, v.astype(np.float32).ravel()) for k, v in weights.items()
    ]
    stored[0] = onnx.numpy_helper.from_array(weights["w1"].astype(np.float32), "w1")
    node = helper.make_node
    nodes = [
        node("Sub", ["image", "mean"], ["x"], "sub"),
        node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1] * 4, kernel_shape=[3, 3], strides=[1, 1]),
        node("Relu", ["c1"], ["r1"], "relu"),
        node("MaxPool", ["r1"], ["p1"], "pool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("Conv", ["p1", "w2"], ["c2"], "conv2", pads=[2] * 4, dilations=[2, 2], group=4, kernel_shape=[3, 3]),
        node(
            "Resize", ["c2", "", "scales"], ["u2"], "resize", mode="linear", coordinate_transformation_mode="half_pixel"
        ),
        node("Concat", ["u2", "r1"], ["both"], "concat", axis=1),
        node("Conv", ["both", "w3"], ["c3"], "conv3", kernel_shape=[1, 1]),
        node("Add", ["c3", "c3"], ["sum"], "add"),
        node("Sigmoid", ["sum"], ["mask"], "sigmoid"),
    ]
    if preprocess == "embedded":
        nodes[0].input[0] = "scaled"
        nodes[:0] = [
            node("ReduceMax", ["image", "axes"], ["highest"], "highest", keepdims=1),
            node("Div", ["image", "highest"], ["scaled"], "div"),
        ]
        stored.append(helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]))
    shape = ["h", "w"] if dynamic else [side, side]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *shape])],
        [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, *shape])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"u2slim.preprocess": preprocess, "u2slim.size": str(side)})
    onnx.checker.check_model(model)
    return model


def normalised(model: onnx.ModelProto) -> onnx.ModelProto:
    """An embedded small net that also divides by a deviation, as exported ones do."""
    graph = model.graph
    [first] = [number for number, item in enumerate(graph.node) if item.name == "sub"]
    graph.node[first].output[0] = "difference"
    nodes = [*graph.node]
    nodes.insert(first + 1, helper.make_node("Div", ["difference", "std"], ["x"], "std"))
    del graph.node[:]
    graph.node.extend(nodes)
    std = np.float32([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    graph.initializer.append(onnx.numpy_helper.from_array(std, "std"))
    onnx.checker.check_model(model)
    return model


def narrowed(model: onnx.ModelProto, kind: str, rounded: bool = True) -> onnx.ModelProto:
    """A small net whose weights are stored in fewer bits, in both ways that a file may have them.

    Args:
        kind: `half`, `int8` as onnxruntime writes it, or `packed`, whose numbers are always raw.
        rounded: with `int8`, what goes into the first convolution also goes to 8 bits and back.
    """
    graph, nodes = model.graph, []
    stored = {weight.name: onnx.numpy_helper.to_array(weight).copy() for weight in graph.initializer}
    kept = [weight for weight in graph.initializer if not weight.name.startswith("w")]

    def constant(name: str, values: np.ndarray, raw: bool) -> str:
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        plain = helper.make_tensor(name, kind, values.shape, values.ravel())
        kept.append(onnx.numpy_helper.from_array(values, name) if raw else plain)
        return name

    for name, values in stored.items():
        raw = name == "w1"
        if not name.startswith("w"):
            continue
        if kind == "half":
            values[0, 0, 0, 0] = 3e-7  # one of the smallest, which float16 writes in another way
            half = constant(f"{name}.half", values.astype(np.float16), raw)
            nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
            continue
        if kind == "packed":
            bits = {"w1": 6, "w2": 3, "w3": 8}[name]
            scale = (np.abs(values).max((1, 2, 3)) / (2 ** (bits - 1) - 1)).astype(np.float32 if raw else np.float16)
            whole = np.round(values / scale.reshape(-1, 1, 1, 1)).astype(int).ravel()
            whole = whole.clip(1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)
            planes = [*(abs(whole) >> digit & 1 for digit in range(bits - 1)), whole < 0]
            packed = np.packbits(np.array(planes, np.uint8), axis=1, bitorder="little")
            parts = [constant(f"{name}.planes", packed, True), constant(f"{name}.scales", scale, True)]
            nodes.append(helper.make_node("Unpack", parts, [name], domain="u2slim", shape=values.shape))
            continue
        by_channel = name != "w2"
        scale = np.abs(values).max((1, 2, 3) if by_channel else None) / 120 + 1e-4
        zero = np.full(scale.shape, 3 if by_channel else 120, np.int8 if by_channel else np.uint8)
        whole = np.round(values / scale.reshape(-1, 1, 1, 1)) + zero.reshape(-1, 1, 1, 1)
        limits = np.iinfo(zero.dtype)
        parts = [
            constant(f"{name}.whole", whole.clip(limits.min, limits.max).astype(zero.dtype), raw),
            constant(f"{name}.scale", scale.astype(np.float32), not raw),
            constant(f"{name}.zero", zero, raw),
        ]
        nodes.append(helper.make_node("DequantizeLinear", parts, [name], axis=-4))
    if kind == "int8" and rounded:
        parts = [constant("x.scale", np.float32(0.02), True), constant("x.zero", np.uint8(128), False)]
        [conv] = [number for number, item in enumerate(graph.node) if item.name == "conv1"]
        graph.node[conv].input[0] = "y"
        nodes += [*graph.node[:conv], helper.make_node("QuantizeLinear", ["x", *parts], ["q"])]
        nodes += [helper.make_node("DequantizeLinear", ["q", *parts], ["y"]), *graph.node[conv:]]
    else:
        nodes += graph.node
    nodes = [onnx.NodeProto.FromString(item.SerializeToString()) for item in nodes]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    if kind == "packed":
        model.opset_import.append(helper.make_opsetid("u2slim", 1))
    onnx.checker.check_model(model)
    return model


def foreign_net(side: int = 32) -> onnx.ModelProto:
    """A net of another project, of operations that ours do not have, with two outputs."""
    node = helper.make_node

    def constant(name: str, values: list) -> onnx.NodeProto:
        kind = TensorProto.INT64 if isinstance(values[0], int) else TensorProto.FLOAT
        return node("Constant", [], [name], name, value=helper.make_tensor(name, kind, [len(values)], values))

    nodes = [
        node("Conv", ["image", "w"], ["c"], "conv", kernel_shape=[1, 1]),
        node("BatchNormalization", ["c", "one", "zero", "zero", "one"], ["n"], "norm", epsilon=1e-5),
        node("Clip", ["n"], ["k"], "clip"),
        node("AveragePool", ["k"], ["a"], "average", kernel_shape=[2, 2], strides=[2, 2]),
        constant("margins", [0, 0, 1, 1, 0, 0, 1, 1]),
        node("Pad", ["a", "margins"], ["padded"], "pad", mode="constant"),
        constant("scales", [1.0, 1.0, 2.0, 2.0]),
        node("Resize", ["a", "", "scales"], ["u"], "up", mode="linear", coordinate_transformation_mode="asymmetric"),
        node("GlobalAveragePool", ["padded"], ["g"], "mean"),
        node("Sigmoid", ["g"], ["gate"], "gate"),
        node("Mul", ["u", "gate"], ["m"], "mul"),
        constant("starts", [0]),
        constant("ends", [1]),
        constant("axes", [1]),
        node("Slice", ["m", "starts", "ends", "axes"], ["first"], "slice"),
        node("Transpose", ["first"], ["t"], "transpose", perm=[0, 1, 3, 2]),
        constant("shape", [1, 1, side, side]),
        node("Reshape", ["t", "shape"], ["r"], "reshape"),
        node("Identity", ["r"], ["i"], "identity"),
        node("Sigmoid", ["i"], ["d0"], "d0"),
        node("Relu", ["i"], ["d1"], "d1"),
    ]
    weights = {
        "w": ([2, 3, 1, 1], [0.1, -0.2, 0.3, 0.2, 0.1, -0.4]),
        "one": ([2], [1.0, 1.0]),
        "zero": ([2], [0.0, 0.0]),
    }
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, side, side]) for name in ("d0", "d1")],
        [helper.make_tensor(name, TensorProto.FLOAT, *values) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    # Which makes no file ours, but says how its input is normalised: what nobody knows of is refused before it is run.
    helper.set_model_props(model, {"u2slim.mean": "0.485 0.456 0.406"})
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1]))
