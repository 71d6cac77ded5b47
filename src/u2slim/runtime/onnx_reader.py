"""What an ONNX file says of itself, checked before any runtime allocates what it asks for."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from u2slim.errors import UserError
from u2slim.files import refuse_web_page
from u2slim.images.preprocess import ISNET_PREPROCESS, U2NET_PREPROCESS, Preprocess
from u2slim.runtime.batch_axis import MAX_BATCH, MAX_PIXELS, OPEN
from u2slim.runtime.packed import widened
from u2slim.sizes import Size, sides

if TYPE_CHECKING:
    import onnx

MAX_CLASSES = 254  # of a class map, whose largest number is for no class
_CONVOLUTIONS = ("Conv", "ConvInteger")
_SCALING = ("Cast", "Mul", "Add", "DynamicQuantizeLinear")  # between two of them in 8 bits
MAX_BYTES = 8 * 2**30  # of one array: no net for images of that size needs as much

# Where it is known from how an input is normalised.
FILE, KNOWN, GIVEN, U2NET, ISNET, NOWHERE = "file", "known", "given", "U2-Net", "IS-Net", ""
_CONVOLUTIONS_OF_U2NET = 119  # and of IS-Net, of any width, with their side outputs and the fused one


@dataclass(frozen=True)
class Graph:
    """An ONNX file with one input of images: its bytes, names, (height, width), and how its input is normalised.

    The bytes are those that a runtime is given: packed weights are unpacked in them. `preprocess` is None where the
    graph takes RGB 0..255 itself, and `precision` empty where nothing tells it. `labels` are the `names` and `palette`
    of a net that tells classes apart, whose output are logits. `batch` photos go in at once, None: any number. `proved`
    files are known to run, so that no runtime has to try them first. `source` is where `preprocess` is from.
    """

    data: bytes
    input: str
    output: str
    size: tuple[int, int]
    preprocess: Preprocess | None
    precision: str
    labels: dict[str, list] | None = None
    batch: int | None = 1
    proved: bool = False
    source: str = FILE


def read_graph(
    path: Path, size: Size | None = None, usual: Preprocess | None = None, given: Preprocess | None = None
) -> Graph:
    """An ONNX file, its weights in files beside it included.

    Args:
        path: the file.
        size: to run it at; None: the size that it says.
        usual: what its input is made of, where it does not say so and it is known; None: it is not known.
        given: what it is made of by who asks; None: as of U2-Net, or of IS-Net if it looks so, where it is not known.

    Raises:
        UserError: it says something else than `given`, is damaged, takes anything but images, asks for absurdly much
            memory, or for another size.
    """
    import onnx

    refuse_web_page(path, "a net")
    try:
        data = path.read_bytes()
        stored = onnx.load_from_string(data)
    except Exception as error:  # protobuf and onnx raise several types for a damaged or foreign file
        raise _damaged(path, error) from error
    if load_beside(stored, path):
        data = _serialised(stored, path)
    try:
        plain = widened(data)
    except ValueError as error:
        raise UserError(f"{path} cannot be unpacked: {error}. Export it again with export.py.") from error
    try:
        model = stored if plain is data else onnx.load_from_string(plain)
        graph = model.graph
        check_texts(model)
        weights = {tensor.name for tensor in graph.initializer}
        entries = [entry for entry in graph.input if entry.name not in weights]  # old files list their weights, too
        shapes = {entry.name: _shape(entry) for entry in entries}
        metadata = {item.key: item.value for item in model.metadata_props}
        outputs = [output.name for output in graph.output]
        largest = max(_bytes(model), default=0)
    except Exception as error:  # likewise
        raise _damaged(path, error) from error
    if len(entries) != 1 or not outputs:
        raise _foreign(path, f"it has {len(entries)} inputs ({', '.join(shapes)}) and {len(outputs)} outputs")
    ((name, shape),) = shapes.items()
    if len(shape) == 4 and shape[3] == 3 and shape[1] != 3:
        raise _foreign(path, f"its input {name} is of shape {shape}, with the colours last")
    if len(shape) != 4 or shape[1] not in (0, 3) or min(shape) < 0:
        raise _foreign(path, f"its input {name} is of shape {shape}, where 0 is any")
    batch = _batch(path, shape[0], metadata)
    if entries[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(entries[0].type.tensor_type.elem_type).lower()
        raise _foreign(path, f"its input {name} is {kind}, not float32")
    isnet = _looks_like_isnet(graph)
    by_looks = ISNET_PREPROCESS if isnet else U2NET_PREPROCESS
    wanted = (named_size(metadata) or sides((usual or by_looks).size, "size")) if size is None else sides(size, "size")
    height, width = (side or own for side, own in zip(shape[2:], wanted, strict=True))
    if size is not None and (height, width) != wanted:
        raise UserError(
            f"{path} runs at {width}x{height} pixels and no other size. Leave out the size, or export the net at "
            "another one: export.py export.dynamic=true."
        )
    if (batch or 1) * height * width > MAX_PIXELS or largest > MAX_BYTES:
        count, fewer = (f"{batch} ", "fewer or smaller") if batch and batch > 1 else ("", "smaller")
        raise UserError(
            f"{path} asks for {count}images of {width}x{height} and for arrays of up to {largest / 2**30:.1f} GiB; "
            f"use a net for {fewer} images."
        )
    output = "mask" if "mask" in outputs else outputs[0]
    size = height, width
    precision = metadata.get("u2slim.precision") or ("fp16_compute" if _computes_in_half(graph) else "")
    labels = class_labels(path, metadata)
    source = FILE
    if metadata.get("u2slim.preprocess") == "embedded":
        said, preprocess = None, None
        if given:
            raise UserError(f"{path} normalises its input itself: leave out mean, std and scale.")
    elif "u2slim.preprocess" in metadata or "u2slim.mean" in metadata:
        said = preprocess = _said(path, metadata, size)
    else:
        said, source = usual, KNOWN
        preprocess = usual or given or by_looks
        if usual is None:
            looks = ISNET if isnet else U2NET
            convolutions = sum(node.op_type in _CONVOLUTIONS for node in graph.node)
            source = GIVEN if given else looks if convolutions == _CONVOLUTIONS_OF_U2NET else NOWHERE
    if given and said and not given.same_pixels(said):
        words = "says" if source == FILE else "is a published net and takes"
        raise UserError(f"{path} {words} {said}, and not {given}: leave out mean, std and scale.")
    preprocess = replace(preprocess, size=size) if preprocess else None
    return Graph(plain, name, output, size, preprocess, precision, labels, batch, source=source)


def check_texts(model: "onnx.ModelProto") -> None:
    """Raise ValueError where a name or an entry is no text, as of a damaged file, which protobuf gives as bytes."""
    graph = model.graph
    texts: list[object] = [value.name for value in (*graph.input, *graph.output, *graph.initializer)]
    for node in graph.node:
        texts += node.op_type, node.name, *node.input, *node.output
    for item in model.metadata_props:
        texts += item.key, item.value
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name is no text")


def load_beside(model: "onnx.ModelProto", path: Path) -> bool:
    """Read the weights that a file keeps in others beside it, if it does.

    Raises:
        UserError: they are missing, damaged, or elsewhere.
    """
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    tensors = [*model.graph.initializer, *(a.t for node in model.graph.node for a in node.attribute if a.HasField("t"))]
    outside = [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if not outside:
        return False
    beside = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
    try:
        load_external_data_for_model(model, str(path.parent))
        for tensor in outside:  # too short a file is read without a word
            onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # onnx checks names and sizes, each with a type of its own
        raise UserError(
            f"{path} keeps its weights in {', '.join(sorted(beside)) or 'a file'} beside it, which is missing or "
            "damaged: put it there."
        ) from error
    return True


def _serialised(model: "onnx.ModelProto", path: Path) -> bytes:
    """A model and its weights in one.

    Raises:
        UserError: that would be more than protobuf holds.
    """
    try:
        data: bytes = model.SerializeToString()
        return data
    except Exception as error:  # protobuf's type depends on its version
        raise UserError(
            f"{path} and its weights are more than 2 GB, too much for one file: use a smaller net."
        ) from error


def _batch(path: Path, side: int, metadata: Mapping[str, str]) -> int | None:
    """The photos at once that an input's first axis, 0 where it is open, stands for.

    A file of another project is run with one where it is open: many exporters leave it so in graphs that hold for one.
    """
    if side > MAX_BATCH:
        raise UserError(f"{path} takes {side} photos at once, more than {MAX_BATCH}: use a net for fewer.")
    if side:
        return side
    return None if metadata.get("u2slim.batch") == OPEN else 1


def named_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """(height, width) as a file of ours says it; None: it does not."""
    text = metadata.get("u2slim.size", "")
    if not re.fullmatch(r"\d+(x\d+)?", text):
        return None
    height, *width = map(int, text.split("x"))
    return height, width[0] if width else height


def _looks_like_isnet(graph: "onnx.GraphProto") -> bool:
    """Whether its first convolution halves the photo and feeds another one, with neither BatchNorm nor ReLU between.

    U2-Net's does not halve; that of ResNets and the like is followed by ReLU.
    """
    first = next((node for node in graph.node if node.op_type in _CONVOLUTIONS), None)
    if first is None or not any(a.name == "strides" and list(a.ints) == [2, 2] for a in first.attribute):
        return False
    value = first.output[0]
    while (reader := next((node for node in graph.node if value in node.input), None)) is not None:
        if reader.op_type not in _SCALING:
            return reader.op_type in _CONVOLUTIONS
        value = reader.output[0]
    return False


def _computes_in_half(graph: "onnx.GraphProto") -> bool:
    from onnx import TensorProto

    half = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    return any(node.op_type == "Conv" and node.input[1] in half for node in graph.node)


def _said(path: Path, metadata: Mapping[str, str], size: tuple[int, int]) -> Preprocess:
    try:
        return Preprocess.from_metadata({key.removeprefix("u2slim."): metadata[key] for key in metadata}, size)
    except ValueError as error:
        raise UserError(
            f"{path} does not say how its input is normalised ({error}). Export it again with export.py."
        ) from error


def class_labels(path: Path, metadata: Mapping[str, str]) -> dict[str, list] | None:
    """The names and colours of the classes that a file's entries tell apart; None: it makes masks."""
    if "u2slim.classes" not in metadata:
        return None
    names = metadata["u2slim.classes"].split(",")
    colours = re.findall(r"#([0-9a-f]{6})\b", metadata.get("u2slim.palette", ""))
    if len(names) != len(colours) or len(names) > MAX_CLASSES:
        raise UserError(
            f"{path} names {len(names)} classes and {len(colours)} colours. Export it again with export.py."
        )
    return {"names": names, "palette": [list(bytes.fromhex(colour)) for colour in colours]}


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} ({path.stat().st_size / 1e6:.1f} MB) is not an ONNX net: truncated, damaged or of another kind. "
        f"Export it again with export.py. [{type(error).__name__}]"
    )


def _foreign(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is not a net from one image (1, 3, height, width) to its mask: {reason}. Export one with export.py."
    )


def _shape(value: "onnx.ValueInfoProto") -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _bytes(model: "onnx.ModelProto") -> Iterator[int]:
    """Of every array whose size can be told without running the graph."""
    import onnx

    for tensor in model.graph.initializer:
        yield 4 * prod(tensor.dims)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        yield 4 * prod(side or 1 for side in _shape(value))  # what is open is run as 1 at least
