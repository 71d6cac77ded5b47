"""What the files that phones run say of themselves: the entries that an ONNX file of ours has as its metadata."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from u2slim.errors import UserError
from u2slim.images.preprocess import Preprocess
from u2slim.runtime.onnx_reader import Graph, class_labels, named_size
from u2slim.sizes import Size, sides

PREFIX = "u2slim."
_TEXT_END = b"\0"


def graph_of(path: Path, data: bytes, metadata: Mapping[str, str], wanted: Size | None) -> Graph:
    """A file of fixed size, whose entries say what it takes.

    Args:
        metadata: as in an ONNX file, with the prefix.
        wanted: a size that it is asked to run at.

    Raises:
        UserError: it says too little, or runs at another size.
    """
    size = named_size(metadata)
    if size is None or f"{PREFIX}preprocess" not in metadata:
        raise UserError(f"{path} does not say what it takes: only files that export.py made run here.")
    if wanted is not None and sides(wanted, "size") != size:
        raise UserError(f"{path} runs at {size[1]}x{size[0]} pixels and no other size: export the net at another one.")
    preprocess = None
    if metadata[f"{PREFIX}preprocess"] != "embedded":
        try:
            entries = {key.removeprefix(PREFIX): value for key, value in metadata.items()}
            preprocess = Preprocess.from_metadata(entries, size)
        except ValueError as error:
            raise UserError(f"{path} does not say how its input is normalised ({error}). Export it again.") from error
    output = metadata.get(f"{PREFIX}outputs", "mask").split()[0]
    precision = metadata.get(f"{PREFIX}precision", "")
    return Graph(data, "image", output, size, preprocess, precision, class_labels(path, metadata))


def ncnn_files(path: Path) -> tuple[Path, Path, Path]:
    """The three files of a net for ncnn: layers, weights, and entries, for which ncnn's own two have no place."""
    return path, path.with_suffix(".bin"), path.with_suffix(".json")


def net_bytes(path: Path) -> int:
    """What a net takes on a phone: of one for ncnn its two files, of one for Core ML all in its folder."""
    if path.suffix.lower() == ".param":
        return sum(part.stat().st_size for part in ncnn_files(path)[:2])
    parts = path.rglob("*") if path.is_dir() else [path]
    return sum(part.stat().st_size for part in parts if part.is_file())


def write_net_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a path in a folder of its own, then move what is there: all parts of a net, or none.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part.", dir=path.parent) as folder:
            write(Path(folder) / path.name)
            for part in sorted(Path(folder).iterdir(), key=lambda part: part.name == path.name):
                part.replace(path.with_name(part.name))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); choose another folder.") from error


def remove_net(path: Path) -> None:
    """Remove a net, and what belongs to it."""
    if path.is_dir():
        shutil.rmtree(path)
    for part in ncnn_files(path) if path.suffix.lower() == ".param" else [path]:
        part.unlink(missing_ok=True)


def write_ncnn_files(path: Path, layers: str, weights: bytes, metadata: Mapping[str, str]) -> None:
    """Write the three files; the third has checksums of the others, as ncnn crashes on files that do not fit."""
    param, binary, entries = ncnn_files(path)
    digest = hashlib.sha256(layers.encode() + weights).hexdigest()
    binary.write_bytes(weights)
    entries.write_text(json.dumps({**metadata, f"{PREFIX}sha256": digest}, indent=1) + "\n")
    param.write_text(layers)


def read_ncnn_files(path: Path) -> tuple[str, bytes, dict[str, str]]:
    """Layers, weights and entries.

    Raises:
        UserError: one is missing, or they do not belong together.
    """
    param, binary, entries = ncnn_files(path)
    try:
        layers, weights, metadata = param.read_text(), binary.read_bytes(), json.loads(entries.read_text())
        intact = metadata.pop(f"{PREFIX}sha256") == hashlib.sha256(layers.encode() + weights).hexdigest()
    except OSError as error:
        raise UserError(
            f"{path} cannot be run without {Path(error.filename or binary).name} beside it: a net for ncnn is three "
            "files, .param, .bin and .json."
        ) from error
    except (AttributeError, KeyError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path} or {entries.name} beside it is damaged: export the net again.") from error
    if not intact:
        raise UserError(f"{path} and {binary.name} do not belong to {entries.name}: export the net again.")
    return layers, weights, metadata


def read_ncnn(path: Path, size: Size | None = None) -> Graph:
    """A net for ncnn; the bytes are those of `layers_and_weights`."""
    layers, weights, metadata = read_ncnn_files(path)
    return graph_of(path, layers.encode() + _TEXT_END + weights, metadata, size)


def layers_and_weights(data: bytes) -> tuple[bytes, bytes]:
    """The contents of ncnn's two files."""
    layers, _, weights = data.partition(_TEXT_END)
    return layers, weights


def litert_metadata(data: bytes) -> dict[str, str]:
    """The entries of a LiteRT file.

    Raises:
        ValueError: it is no LiteRT file, or a damaged one.
    """
    from ai_edge_litert.schema_py_generated import Model

    if not Model.ModelBufferHasIdentifier(data, 0):
        raise ValueError("it is no LiteRT file")
    try:
        model = Model.GetRootAs(data)
        found = [model.Metadata(number) for number in range(model.MetadataLength())]
        for entry in found:
            if entry.Name() == PREFIX.encode():
                return dict(json.loads(bytes(model.Buffers(entry.Buffer()).DataAsNumpy())))
    except Exception as error:  # flatbuffers checks nothing, so anything may come of a damaged file
        raise ValueError("it is damaged") from error
    return {}


def with_litert_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """A LiteRT file with these entries in place of those that it had."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    model.metadata = [entry for entry in model.metadata or [] if entry.name != PREFIX.encode()]
    content, entry = schema.BufferT(), schema.MetadataT()
    content.data = list(json.dumps(dict(metadata)).encode())
    entry.name, entry.buffer = PREFIX, len(model.buffers)
    model.buffers.append(content)
    model.metadata.append(entry)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def read_litert(path: Path, size: Size | None = None) -> Graph:
    """A net for LiteRT.

    Raises:
        UserError: it is damaged, or says too little.
    """
    data = path.read_bytes()
    try:
        metadata = litert_metadata(data)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}. Export it again with export.py.") from error
    return graph_of(path, data, metadata, size)
