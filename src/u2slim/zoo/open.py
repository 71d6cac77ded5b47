"""Open any net by its name or its file: `open_net`."""

from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from u2slim.errors import UserError, missing_extra
from u2slim.files import user_path
from u2slim.images.preprocess import Preprocess
from u2slim.runtime import PHONE_ENDINGS, Runner, check_runtime, net_runner, onnx_runner, phone_runner
from u2slim.runtime.onnx_reader import FILE, GIVEN, KNOWN, NOWHERE, Graph, read_graph
from u2slim.sizes import Size
from u2slim.zoo.fetch import fetch, find, note, record_of
from u2slim.zoo.records import PUBLISHED, Published
from u2slim.zoo.shipped import SHIPPED, published_graph

if TYPE_CHECKING:
    from u2slim.models import Net

ENDINGS = (".ckpt", ".pth", ".onnx", *PHONE_ENDINGS)


@dataclass(frozen=True)
class NetHandle:
    """A net that has been found but not yet read; `runner` and `net` read it.

    Args:
        name: the name or file that was asked for.
        weights: a training checkpoint or a published `.pth` file, from which torch builds the net.
        onnx: an ONNX file, which every runtime but torch runs; torch can build nets of published structures from it.
        published: the record of a published net, which is downloaded when it is first needed.
        preprocess: how the caller says that the input is normalised; its size is not used.
        phone: a file for phones, which only its own runtime (ncnn or litert) runs.
    """

    name: str
    weights: Path | None = None
    onnx: Path | None = None
    published: Published | None = None
    preprocess: Preprocess | None = None
    phone: Path | None = None

    @property
    def is_runtime_file(self) -> bool:
        """Whether the net is only a file that runs as it is, instead of being built for torch."""
        return self.weights is None and self.published is None

    def path(self) -> Path:
        """The net's file, the weights if there are any; a published net is downloaded on first use."""
        return self._path

    @cached_property  # as the checksum of a published net's file takes a moment
    def _path(self) -> Path:
        path = self.weights or self.onnx or self.phone
        if path is None:
            assert self.published is not None
            return fetch(self.published)
        return path

    def net(self) -> "Net":
        """The net as a torch module in evaluation mode; `preprocess.size` is the size that it is used at.

        Raises:
            UserError: torch is not installed, the file does not hold a net of this project, or it states another
                normalisation than the given one.
        """
        if self.phone is not None:
            raise UserError(f"{self.name} is a file for phones, which torch cannot read: give its checkpoint.")
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
        """Whether it is an ONNX file that does not say how its input is normalised and is not a published one.

        Raises:
            UserError: the file cannot be read.
        """
        if self.onnx is None or self.name in SHIPPED or self._record():
            return False
        return read_graph(self.onnx).source not in (FILE, KNOWN)

    def _graph(self, size: Size | None = None) -> Graph:
        """What its ONNX file holds; for a user's own file, a note tells how its input is normalised."""
        assert self.onnx is not None or self.published is not None
        path = self.onnx_path()
        assert path is not None
        record = self._record()
        graph = read_graph(path, size, record.preprocess if record else None, self.preprocess)
        if graph.source == NOWHERE:
            raise UserError(
                f"{path} does not say how its input is normalised, and looks neither like a U2-Net nor like an IS-Net: "
                "give mean, std and scale, for most nets --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
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
        """Open the net in a runtime, ready to make masks.

        `auto` takes OpenCV if the net has an ONNX file, and torch if it has none. For other runtimes a net without an
        ONNX file is exported first, to a temporary file.

        Args:
            runtime: `auto`, `torch`, `opencv`, `onnxruntime`, `openvino`; for phones' files `ncnn` or `litert`.
            stretch: stretch each mask to 0..1, as U2-Net's own test script does.
            streams: how many of your threads may call it at once.
            threads: how many threads the runtime may use for all of them together; None: one per core.
            size: size of the net's input in pixels, the side of a square or [height, width]; None: the net's own.
            device: `cpu`, or another by the runtime's own name; None: `cpu`, for torch a GPU if there is one.

        Raises:
            UserError: the runtime is not known, not installed, or cannot run the file.
        """
        check_runtime(runtime)
        if self.phone is not None:
            if self.preprocess:
                raise UserError(f"{self.name} says itself how its input is normalised: leave out mean, std and scale.")
            return phone_runner(self.phone, runtime, stretch, streams, threads, size, device)
        if runtime != "torch" and (onnx := self.onnx_path()) is not None:
            graph = None
            if size is None and self.preprocess is None:
                graph = SHIPPED[self.name].graph() if self.name in SHIPPED else published_graph(onnx)
            graph = graph or self._graph(size)
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
    """Find a net by name or file, without reading it yet.

    Args:
        name: a shipped net (`lite-two-thirds`), a published one (`u2netp`), a file (one of `ENDINGS`), or
            `last` for the newest training checkpoint under `outputs/`; a handle is returned as it is.
        preprocess: how the input is normalised, for an ONNX file of another project that does not say it:
            `Preprocess.given(mean, std, scale)`.

    Returns:
        a handle: `.runner()` opens the net in a runtime, `.net()` builds it as a torch module.

    Raises:
        UserError: there is no such net, or the file's ending is not one of a net.
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
    if path.suffix.lower() in PHONE_ENDINGS:
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
