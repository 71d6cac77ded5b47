"""One way to open a net, whatever it is called and whatever file it is in."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from u2slim.errors import UserError, missing_extra
from u2slim.files import user_path
from u2slim.images.preprocess import Preprocess
from u2slim.runtime import Runner, check_runtime, net_runner, onnx_runner, phone_runner
from u2slim.runtime.onnx_reader import FILE, GIVEN, KNOWN, NOWHERE, Graph, read_graph
from u2slim.sizes import Size
from u2slim.zoo.fetch import fetch, find, note, record_of
from u2slim.zoo.records import PUBLISHED, Published
from u2slim.zoo.shipped import SHIPPED

if TYPE_CHECKING:
    from u2slim.models import Net

PHONES = (".param", ".tflite")
ENDINGS = (".ckpt", ".pth", ".onnx", *PHONES)


@dataclass(frozen=True)
class NetHandle:
    """A net that has been found and not been read yet.

    Args:
        name: as it was asked for.
        weights: a training checkpoint, or a published `.pth`, that torch builds the net from.
        onnx: a file that every runtime but torch runs; of a published structure, torch can build the net from it, too.
        published: the record of a published net, which is downloaded when it is first needed.
        preprocess: what its input is made of, by who asks; its size plays no part.
        phone: a file that one of the runtimes of phones runs, and nothing else does.
    """

    name: str
    weights: Path | None = None
    onnx: Path | None = None
    published: Published | None = None
    preprocess: Preprocess | None = None
    phone: Path | None = None

    @property
    def is_runtime_file(self) -> bool:
        """Whether all there is of it is a file that runs as it is rather than being built for torch."""
        return self.weights is None and self.published is None

    def path(self) -> Path:
        """The file, that with weights first; a published net is downloaded on first use."""
        return self._path

    @cached_property  # as the checksum of a published net's file takes a moment
    def _path(self) -> Path:
        path = self.weights or self.onnx or self.phone
        if path is None:
            assert self.published is not None
            return fetch(self.published)
        return path

    def net(self) -> "Net":
        """The net of torch in evaluation mode; the size that it is used at is its `preprocess.size`.

        Raises:
            UserError: torch is not installed, the file holds no net of ours, or says another normalisation than is
                given.
        """
        if self.phone is not None:
            raise UserError(f"{self.name} is a file for phones, of which torch builds nothing: give its checkpoint.")
        if self.preprocess and self.onnx is None:
            raise UserError(f"{self.name} brings its own normalisation: mean, std and scale are for ONNX files.")
        try:
            from u2slim.zoo.checkpoints import net_from
        except ImportError as error:
            raise missing_extra(f"building {self.name} for torch", "torch", "train") from error
        net = net_from(self.path())
        if record := self._record():
            net.preprocess = replace(record.preprocess, size=net.preprocess.size)
        if self.is_runtime_file or self.preprocess:  # after torch, which says best what it cannot build
            graph = self._graph()
            net.preprocess = replace(graph.preprocess or net.preprocess, size=net.preprocess.size)
        return net

    def is_silent(self) -> bool:
        """Whether it is an ONNX file that neither says how its input is normalised nor is a published one.

        Raises:
            UserError: the file cannot be read.
        """
        if self.onnx is None or self.name in SHIPPED or self._record():
            return False
        return read_graph(self.onnx).source not in (FILE, KNOWN)

    def _graph(self, size: Size | None = None) -> Graph:
        """What there is in its ONNX file; what its input is taken for is said, where it is a file of one's own."""
        assert self.onnx is not None or self.published is not None
        path = self.onnx_path()
        assert path is not None
        record = self._record()
        graph = read_graph(path, size, record.preprocess if record else None, self.preprocess)
        if graph.source == NOWHERE:
            raise UserError(
                f"{path} does not say how its input is normalised, and it is neither a U2-Net nor an IS-Net by its "
                "looks: give mean, std and scale, of most nets --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
                "--scale 255."
            )
        if self.is_runtime_file and graph.preprocess and self.name not in SHIPPED:
            known = {FILE: "as the file says", KNOWN: f"as {record and record.name} does", GIVEN: "as given"}
            why = known.get(graph.source, f"as it looks like {graph.source}; else give mean, std and scale")
            note(f"{path} takes {graph.preprocess}, {why}.")
        return graph

    def _record(self) -> Published | None:
        """Which published net it is, where it is one."""
        if self.published is None and self.onnx is not None and self.name not in SHIPPED:
            return record_of(self.onnx)
        return self.published

    def runner(
        self,
        runtime: str = "auto",
        stretch: bool = True,
        streams: int = 1,
        threads: int | None = None,
        size: Size | None = None,
        device: str | None = None,
    ) -> Runner:
        """What cuts out with the net in a runtime.

        `auto` takes OpenCV where there is an ONNX file, and torch where there is none. For another runtime than torch
        a net without an ONNX file is exported first, to a file that does not stay.

        Args:
            runtime: `auto`, `torch`, `opencv`, `onnxruntime`, `openvino`, or of files for phones `ncnn` or `litert`.
            stretch: stretch each mask to 0..1, as U2-Net's own test script does.
            streams: so many threads may call it at once.
            threads: that all of them together may take; None: one a core.
            size: side of the square, or [height, width], to run the net at; None: its own.
            device: `cpu`, or another by the runtime's own name; None: `cpu`, for torch a GPU where there is one.

        Raises:
            UserError: the runtime is not known, not installed, or cannot run the file.
        """
        check_runtime(runtime)
        if self.phone is not None:
            if self.preprocess:
                raise UserError(f"{self.name} says itself how its input is normalised: leave out mean, std and scale.")
            return phone_runner(self.phone, runtime, stretch, streams, threads, size, device)
        if runtime != "torch" and (onnx := self.onnx_path()) is not None:
            is_plain = self.name in SHIPPED and size is None and self.preprocess is None
            graph = (SHIPPED[self.name].graph() if is_plain else None) or self._graph(size)
            return onnx_runner(onnx, runtime, stretch, streams, threads, device=device, graph=graph)
        net = self.net()
        return net_runner(net, size or net.preprocess.size, runtime, stretch, streams, threads, device)

    def onnx_path(self) -> Path | None:
        """The ONNX file, if it has one; downloaded where nothing else of a published net is at hand."""
        if self.published is None or self.onnx is not None:
            return self.onnx
        path = find(self.published, onnx=True)
        return path if path or find(self.published) else fetch(self.published, onnx=True)


def open_net(name: "str | Path | NetHandle", preprocess: Preprocess | None = None) -> NetHandle:
    """Find a net by name or file, without reading it.

    Args:
        name: a shipped net (`lite-two-thirds`), a published one (`u2netp`), a file (one of `ENDINGS`), or
            `last` for the newest training checkpoint under `outputs/`; or what this function returned.
        preprocess: what the input of another project's ONNX file is made of, where the file does not say it:
            `Preprocess.given(mean, std, scale)`.

    Raises:
        UserError: there is no such net, or its file has an ending that no net's has.
    """
    if preprocess is not None:
        return replace(open_net(name), preprocess=preprocess)
    if isinstance(name, NetHandle):
        return name
    text = str(name)
    if text == "last":
        return NetHandle(text, weights=newest_checkpoint())
    if text in SHIPPED:
        return NetHandle(text, weights=SHIPPED[text].weights, onnx=SHIPPED[text].onnx)
    if text in PUBLISHED:
        return NetHandle(text, published=PUBLISHED[text])
    path = user_path(text)
    if not path.is_file():
        near = get_close_matches(text.replace("_", "-").lower(), [*SHIPPED, *PUBLISHED], 1)
        asked = f"{text} (did you mean {near[0]}?)" if near else text or "an empty name"
        raise UserError(
            f"No net at {asked}: give a {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]} file, `last` for the newest run's "
            f"checkpoint, a shipped net ({', '.join(SHIPPED)}), or a published one ({', '.join(PUBLISHED)})."
        )
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{text} cannot be read ({error.strerror or error}); check its permissions.") from error
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"{text} is no net: a net's file ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}.")
    if path.suffix.lower() == ".onnx":
        return NetHandle(text, onnx=path)
    if path.suffix.lower() in PHONES:
        return NetHandle(text, phone=path)
    return NetHandle(text, weights=path)


def newest_checkpoint(outputs: str | Path = "outputs") -> Path:
    """The newest `last.ckpt` of any run under a folder.

    Raises:
        UserError: there is none.
    """
    found = sorted(Path(outputs).rglob("checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"No run under {Path(outputs)}/ has a checkpoints/last.ckpt yet; train one, or name a file.")
    return found[-1]
