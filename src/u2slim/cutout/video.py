"""A clip to a clip of its subject, frame by frame, in constant memory."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from u2slim.cutout.single import Style, cut
from u2slim.cutout.steady import FrameMasks
from u2slim.errors import UserError, missing_extra
from u2slim.files import write_whole
from u2slim.images.read import photo_pixels

if TYPE_CHECKING:
    import av

UNKNOWN = (0, 2)  # colour spaces of pixels that are RGB already, and of a file that does not say
HD = 720  # rows from which a file that does not say has BT.709's colours, as players take it
BT709, BT470BG, BT601 = 1, 5, 6  # FFmpeg's numbers; the last two have the same coefficients
# upstream: FFmpeg's list of what .mov takes has them, and its writer refuses them (seen with 8.1); not reported
NOT_IN_MOV = ("flac", "opus")
OPUS_RATE = 48_000  # which it always has
LAYOUTS = {1: "mono", 6: "5.1", 8: "7.1"}  # of sound that is encoded, by the channels; all others become stereo


@dataclass(frozen=True)
class Coding:
    """How frames are written: FFmpeg's names of the encoder, its pixels and its options, and what people call it."""

    encoder: str
    pixels: str
    options: dict[str, str]
    name: str
    even: bool = False  # whether its sides are even numbers


_VP9 = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
H264 = Coding("libx264", "yuv420p", {"crf": "18"}, "H.264", even=True)
# By the ending: with transparency, if the container has any, and over a background.
ENDINGS: dict[str, tuple[Coding | None, Coding]] = {
    ".webm": (
        Coding("libvpx-vp9", "yuva420p", _VP9 | {"auto-alt-ref": "0"}, "VP9 with transparency"),
        Coding("libvpx-vp9", "yuv420p", _VP9, "VP9"),
    ),
    ".mov": (
        Coding(
            "prores_ks",
            "yuva444p10le",
            {"profile": "4444", "alpha_bits": "16", "vendor": "apl0"},
            "ProRes 4444 with transparency",
        ),
        H264,
    ),
    ".mp4": (None, H264),
}


@dataclass
class Film:
    """What was made of a clip.

    Args:
        coding: of its frames.
        sound: what became of the sound, in words.
        frames: how many there are.
        reused: so many of them have the mask of the one before, as nothing moved.
        damaged: so many frames of the clip are damaged, or missing as they could not be decoded.
        empty: so many frames have no subject.
    """

    coding: Coding
    sound: str = "no sound"
    frames: int = 0
    reused: int = 0
    damaged: int = 0
    empty: int = 0


def coding_for(output: Path, background: bool) -> Coding:
    """How a clip of this name is written.

    Raises:
        UserError: its ending is not known, or has no transparency and there is no background.
    """
    if output.suffix.lower() not in ENDINGS:
        raise UserError(f"{output}: the ending names the format; give one of {', '.join(ENDINGS)}.")
    clear, opaque = ENDINGS[output.suffix.lower()]
    if background:
        return opaque
    if clear is None:
        raise UserError(
            f"{output}: {output.suffix} has no transparency; give a --background (a colour, a picture's file, or "
            "blur), or end the name in .webm or .mov."
        )
    return clear


class Clip:
    """A clip that is open for reading; a context manager.

    Raises:
        UserError: PyAV is not installed, or the file cannot be read or has no moving picture.
    """

    def __init__(self, path: Path):
        try:
            import av
        except ImportError as error:
            raise missing_extra("u2slim video", "av", "video") from error
        self.path, self.broken = path, av.FFmpegError  # whatever is wrong with a file
        if not path.is_file():
            raise UserError(f"There is no clip {path}.")
        try:
            self.container = av.open(str(path))
        except av.FFmpegError as error:
            raise UserError(f"{path} cannot be read as a clip ({error.strerror}); is it whole?") from error
        cover = av.stream.Disposition.attached_pic
        videos = [one for one in self.container.streams.video if not one.disposition & cover]
        if not videos or not videos[0].codec_context:
            self.container.close()
            raise UserError(f"{path} has no moving picture, so there is nothing to cut out.")
        self.video = videos[0]
        self.video.thread_type = "AUTO"
        context = self.video.codec_context
        if context.name == "vp9" and self.video.metadata.get("alpha_mode") == "1":
            # FFmpeg's own decoder, which is the default, leaves the transparency out.
            context = av.CodecContext.create("libvpx-vp9", "r")
        self._decoder = context

    def __enter__(self) -> "Clip":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average or by the file's word."""
        return self.video.average_rate or self.video.guessed_rate or Fraction(25)

    @property
    def length(self) -> int | None:
        """How many frames there are, about; None: the file does not say."""
        if self.video.frames:
            return self.video.frames
        if self.container.duration:
            return round(self.container.duration / 1_000_000 * self.rate)
        return None

    def packets(self, streams: list[Any]) -> Iterator["av.Packet"]:
        """Those of the streams, in the file's order; the end of a file that breaks off is an end."""
        with suppress(self.broken):
            yield from self.container.demux(*streams)

    def frames(self, packet: "av.Packet") -> list["av.VideoFrame"] | None:
        """Those that a packet completes; None: it is damaged."""
        try:
            return self._decoder.decode(packet if packet.size else None)
        except self.broken:
            return None


def cut_video(
    clip: Clip, output: Path, style: Style, masks: FrameMasks, sound: bool = True, advance: Callable[[], object] = int
) -> Film:
    """Cut the subject out of every frame, and write a clip of the same times and sound, whole or not at all.

    Args:
        clip: to cut out.
        output: its ending is the format; see `ENDINGS`.
        style: how; `crop` is left out, as frames are of one size.
        masks: of the net; new for each clip.
        sound: whether to keep it.
        advance: is called after each frame.

    Raises:
        UserError: the ending is not known or needs a background, the sound or the folder cannot be written, or no
            frame could be read.
        KeyboardInterrupt: with a sentence; nothing is left.
    """
    film = Film(coding_for(output, style.background is not None))
    try:
        write_whole(output, lambda partial: _write(clip, partial, film, style, masks, sound, advance))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted after {film.frames} frames: {output} is not written.") from None
    film.reused = masks.reused
    return film


def _write(
    clip: Clip, path: Path, film: Film, style: Style, masks: FrameMasks, sound: bool, advance: Callable[[], object]
) -> None:
    import av

    try:
        with av.open(str(path), "w") as out:
            picture = _Picture(out, clip, film.coding)
            tracks = {one.index: _Sound(out, one, clip.broken) for one in clip.container.streams.audio} if sound else {}
            film.sound = " and ".join(sorted({track.words for track in tracks.values()})) or film.sound
            early = []  # sound before the first frame, whose size the file's head tells
            for packet in clip.packets([clip.video, *(track.source for track in tracks.values())]):
                if packet.stream.index in tracks:
                    if film.frames:
                        tracks[packet.stream.index].add(packet)
                    else:
                        early.append(packet)
                    continue
                frames = clip.frames(packet)
                film.damaged += frames is None
                for frame in frames or ():
                    film.damaged += frame.is_corrupt
                    image, own = picture.read(frame)
                    result = cut(masks.runner, image, own, style, masks)
                    film.empty += result.box is None
                    picture.add(frame, result.rgba if style.background is None else result.on(style.background))
                    film.frames += 1
                    advance()
                if film.frames:
                    for waiting in early:
                        tracks[waiting.stream.index].add(waiting)
                    early = []
            if not film.frames:
                raise UserError(f"{clip.path}: no frame of it can be read; is the file whole?")
            picture.end()
            for track in tracks.values():
                track.end()
    except OSError:
        raise  # which is the folder's fault
    except av.FFmpegError as error:
        without = "; --no-sound leaves out the sound, if that is why" if sound and clip.container.streams.audio else ""
        raise UserError(f"{clip.path} cannot be written as {path.suffix} ({error.strerror}){without}.") from error


class _Picture:
    """The frames that are written, upright, with the times that they have in the clip."""

    def __init__(self, out: "av.container.OutputContainer", clip: Clip, coding: Coding):
        self.out, self.coding = out, coding
        self.base: Fraction = clip.video.time_base or Fraction(1, 90_000)
        self.step = max(1, round(1 / (clip.rate * self.base)))
        self.turn: int | None = None  # by so many right angles to the left, as the first frame says
        try:
            stream: Any = out.add_stream(coding.encoder, rate=clip.rate, options=coding.options)
        except ValueError as error:
            raise UserError(f"This PyAV was built without {coding.encoder}; choose another ending for -o.") from error
        stream.time_base = stream.codec_context.time_base = self.base
        stream.pix_fmt = coding.pixels
        self.stream = stream
        self.shape = clip.video.sample_aspect_ratio
        self.matrix = BT601
        self.last: int | None = None

    def read(self, frame: "av.VideoFrame") -> tuple[np.ndarray, np.ndarray | None]:
        """What the net sees of a frame, and its own RGBA where the clip has transparency."""
        if self.turn is None:
            self._begin(frame)
        has_alpha = any(component.is_alpha for component in frame.format.components)
        said = (BT709 if self.matrix == BT709 else BT470BG) if frame.colorspace in UNKNOWN else None
        pixels: Any = frame.to_ndarray(format="rgba" if has_alpha else "rgb24", src_colorspace=said)
        pixels = np.rot90(pixels, self.turn or 0)
        height, width = self.stream.height, self.stream.width
        if self.coding.even:
            pixels = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
        pixels = np.ascontiguousarray(pixels)
        if pixels.shape[:2] != (height, width):  # a stream may change its size on the way, and a file may not
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        return photo_pixels(Image.fromarray(pixels)) if has_alpha else (pixels, None)

    def add(self, frame: "av.VideoFrame", pixels: np.ndarray) -> None:
        """Write what was made of a frame."""
        import av

        made = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[2] == 4 else "rgb24")
        matrix = BT470BG if self.matrix == BT601 else self.matrix  # PyAV knows the one, ProRes the other
        made = made.reformat(format=self.coding.pixels, dst_colorspace=matrix, dst_color_range="MPEG")
        made.colorspace, made.color_primaries, made.color_trc = self.matrix, frame.color_primaries, frame.color_trc
        made.pts = frame.pts
        if made.pts is None or (self.last is not None and made.pts <= self.last):
            made.pts = 0 if self.last is None else self.last + self.step
        self.last, made.time_base = made.pts, self.base
        made.duration = frame.duration or self.step
        self.out.mux(self.stream.encode(made))

    def end(self) -> None:
        """Write what the encoder still holds."""
        self.out.mux(self.stream.encode(None))

    def _begin(self, frame: "av.VideoFrame") -> None:
        self.turn = round(frame.rotation / 90) % 4
        sides = (frame.width, frame.height)[:: -1 if self.turn % 2 else 1]
        self.stream.width, self.stream.height = (side // 2 * 2 if self.coding.even else side for side in sides)
        if not self.stream.width or not self.stream.height:
            raise UserError(f"A frame of {frame.width}x{frame.height} pixels is too small for {self.coding.name}.")
        self.matrix = BT601 if frame.colorspace == BT470BG else int(frame.colorspace)
        if self.matrix in UNKNOWN:
            self.matrix = BT709 if frame.height >= HD else BT601
        if shape := self.shape:  # of a pixel, which need not be a square
            self.stream.sample_aspect_ratio = 1 / shape if self.turn % 2 else shape
        context = self.stream.codec_context
        context.colorspace, context.color_range = self.matrix, 1  # and what else the clip says of its colours
        context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc


class _Sound:
    """One track: its packets as they are, where the container takes their form, and else encoded anew."""

    def __init__(self, out: "av.container.OutputContainer", source: Any, broken: type[Exception]):
        self.out, self.source, self.broken = out, source, broken
        if source.codec_context is None:
            raise UserError("The clip's sound is in a form that cannot be read: give --no-sound.")
        form = source.codec_context.codec.canonical_name
        self.copied = form in out.supported_codecs and not (out.format.name == "mov" and form in NOT_IN_MOV)
        if self.copied:
            self.stream: Any = out.add_stream_from_template(source)
            self.words = "sound copied"
            return
        encoder = {"opus": "libopus"}.get(out.default_audio_codec, out.default_audio_codec)
        rate = OPUS_RATE if encoder == "libopus" else source.rate
        self.stream = out.add_stream(encoder, rate=rate, layout=LAYOUTS.get(source.channels, "stereo"))
        self.words = f"sound encoded anew as {out.default_audio_codec}"

    def add(self, packet: "av.Packet") -> None:
        if not self.copied:
            for frame in self._decoded(packet):
                self.out.mux(self.stream.encode(frame))
        elif packet.dts is not None:  # which the mark of the end has not
            packet.stream = self.stream
            self.out.mux(packet)

    def _decoded(self, packet: "av.Packet") -> list[Any]:
        with suppress(self.broken):
            return list(packet.decode())
        return []  # a damaged one is a moment of silence

    def end(self) -> None:
        if not self.copied:
            self.out.mux(self.stream.encode(None))
