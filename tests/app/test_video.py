"""`u2slim video` on clips that PyAV writes: transparency, times, sound, memory, what moves, and what is refused."""

import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import u2slim
from tests.conftest import REPO, THREADS
from tests.onnx_files import write_plain_net
from u2slim.app.main import main
from u2slim.cutout.steady import FrameMasks, Steady, moved
from u2slim.zoo import open_net

av = pytest.importorskip("av")

HEIGHT, WIDTH = 48, 64
MS = Fraction(1, 1000)
UNEVEN = [0, 40, 80, 121, 160, 333, 400, 440]  # milliseconds


def square(left: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame with a red square on blue, which the plain net sees as its subject."""
    pixels = np.full((height, width, 3), (20, 40, 90), np.uint8)
    pixels[12:36, left : left + 24] = np.linspace(120, 255, 24, dtype=np.uint8)[:, None, None] * (1, 0.2, 0.2)
    return pixels


def walk(count: int) -> list[np.ndarray]:
    return [square(4 + 4 * (index % 9)) for index in range(count)]


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray],
    times: Sequence[int] | None = None,
    codec: str = "png",
    pixels: str = "rgb24",
    turn: int = 0,
    sound: str | None = None,
    start: int = 0,
    shape: Fraction | None = None,
) -> Path:
    """Frames at times in milliseconds, by default 25 a second, with a second of sound if it is given a codec."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        stream.time_base = stream.codec_context.time_base = MS
        if shape:
            stream.sample_aspect_ratio = shape
        if turn:
            stream.set_display_rotation(turn)
        track: Any = out.add_stream(sound, rate=48_000, layout="mono") if sound else None
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgba" if image.shape[2] == 4 else "rgb24")
            frame.pts, frame.time_base, frame.duration = times[index] if times else 40 * index, MS, 40
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if track:
            wave = np.sin(np.arange(48_000) / 20)[None].astype(np.float32) / 3
            heard = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            heard.rate, heard.pts = 48_000, start
            out.mux(track.encode(heard))
            out.mux(track.encode(None))
    return path


def read_clip(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """The frames, RGBA where they have transparency, and their times in milliseconds."""
    with av.open(str(path)) as clip:
        stream = clip.streams.video[0]
        decoder: Any = stream.codec_context
        if decoder.name == "vp9":
            decoder = av.CodecContext.create("libvpx-vp9", "r")
        frames = [one for packet in clip.demux(stream) for one in decoder.decode(packet if packet.size else None)]
        clear = any(component.is_alpha for component in frames[0].format.components)
        pixels = [frame.to_ndarray(format="rgba" if clear else "rgb24") for frame in frames]
        return pixels, [round(float(1000 * frame.pts * stream.time_base), 3) for frame in frames]


def sound_of(path: Path) -> tuple[str, list[bytes], float]:
    """The codec, the packets, and the seconds that they last."""
    with av.open(str(path)) as clip:
        stream = clip.streams.audio[0]
        packets = [packet for packet in clip.demux(stream) if packet.size]
        seconds = sum(packet.duration for packet in packets) * stream.time_base
        return stream.codec_context.codec.canonical_name, [bytes(packet) for packet in packets], float(seconds)


@pytest.fixture
def net(tmp_path: Path, monkeypatch) -> Path:
    """The plain net, and the working folder in which the commands run."""
    monkeypatch.chdir(tmp_path)
    return write_plain_net(tmp_path / "net.onnx", HEIGHT, WIDTH)


def video(*words: object, status: int = 0) -> None:
    assert main(["video", *map(str, words), "--net", "net.onnx", "--runtime", "opencv"]) == status


@pytest.mark.parametrize(("name", "loss", "mean_loss"), [("cut.mov", 1, 0.2), ("cut.webm", 40, 2)])
def test_transparency_is_the_masks_that_cut_makes_of_the_frames(net, capsys, name, loss, mean_loss):
    frames = walk(8)
    write_clip(Path("clip.mov"), frames, UNEVEN)
    video("clip.mov", "-o", name)
    told = capsys.readouterr()
    assert told.out.startswith("8 frames done with opencv at ") and f": {name} (" in told.out
    assert "with transparency, no sound)" in told.out and "100%" in told.err
    made, times = read_clip(Path(name))
    assert times == UNEVEN
    segmenter = u2slim.Segmenter(net, "opencv")
    for frame, rgba in zip(frames, made, strict=True):
        expected = u2slim.cut_out(frame, segmenter).rgba
        assert np.ptp(expected[..., 3]) > 200
        apart = np.abs(rgba.astype(int) - expected)
        assert apart[..., 3].max() <= loss and apart[..., 3].mean() <= mean_loss
        assert apart[..., :3].mean() < 6
    assert {path.name for path in Path().iterdir()} == {"clip.mov", "net.onnx", name}


def test_options_of_masks_are_those_of_cut(net):
    write_clip(Path("clip.mov"), walk(2))
    options = ("--largest", "--threshold", "0.5", "--border", "20", "--refine", "guided")
    video("clip.mov", "-o", "cut.mov", *options)
    for index, (frame, made) in enumerate(zip(walk(2), read_clip(Path("cut.mov"))[0], strict=True)):
        Image.fromarray(frame).save(f"{index}.png")
        assert main(["cut", f"{index}.png", "--net", "net.onnx", "--runtime", "opencv", *options]) == 0
        np.testing.assert_allclose(made[..., 3], np.asarray(Image.open(f"{index}-cut.png"))[..., 3], atol=1)


def test_over_a_background_times_are_kept_and_sides_are_even(net, capsys):
    write_clip(Path("clip.mov"), [square(4, 49, 65)] * 8, UNEVEN)
    video("clip.mov", "-o", "cut.mp4", "--background", "lime")
    made, times = read_clip(Path("cut.mp4"))
    assert times == UNEVEN and made[0].shape == (48, 64, 3)
    assert "(H.264, no sound)" in capsys.readouterr().out
    np.testing.assert_allclose(made[7][:8].mean((0, 1)), (0, 255, 0), atol=24)
    with av.open("cut.mp4") as clip:
        assert abs(clip.duration - 480_000) < 20_000


def test_sound_is_copied_or_encoded_anew(net, capsys):
    write_clip(Path("clip.mp4"), walk(25), codec="libx264", pixels="yuv420p", sound="aac", start=9600)
    for name in ("cut.mov", "cut.webm", "cut.mp4"):
        video("clip.mp4", "-o", name, *(("--background", "white") if name == "cut.mp4" else ()))
    told = capsys.readouterr().out
    assert told.count("sound copied") == 2 and "sound encoded anew as opus" in told
    assert sound_of(Path("cut.mov")) == sound_of(Path("cut.mp4")) == sound_of(Path("clip.mp4"))
    codec, _, seconds = sound_of(Path("cut.webm"))
    assert codec == "opus" and abs(seconds - sound_of(Path("clip.mp4"))[2]) < 0.06
    video("cut.webm", "-o", "again.webm")
    assert sound_of(Path("again.webm"))[:2] == sound_of(Path("cut.webm"))[:2]
    video("cut.webm", "-o", "again.mov")  # which FFmpeg does not write opus into
    assert sound_of(Path("again.mov"))[0] == "aac"
    video("clip.mp4", "-o", "silent.webm", "--no-sound")
    with av.open("silent.webm") as clip:
        assert not clip.streams.audio
    starts = {}
    for name in ("clip.mp4", "cut.mov", "cut.webm", "cut.mp4"):
        with av.open(name) as clip:
            first = [next(clip.decode(stream)) for stream in (clip.streams.video[0],)]
        with av.open(name) as clip:
            heard = next(clip.decode(clip.streams.audio[0]))
        starts[name] = float(heard.pts * heard.time_base - first[0].pts * first[0].time_base)
    assert max(starts.values()) - min(starts.values()) < 0.03, starts


def test_a_turned_clip_comes_out_upright(net):
    write_clip(Path("clip.mov"), walk(2), turn=90, shape=Fraction(4, 3))
    video("clip.mov", "-o", "cut.mov")
    with av.open("cut.mov") as clip:
        assert clip.streams.video[0].sample_aspect_ratio == Fraction(3, 4)
        frame = next(clip.decode(video=0))
        assert frame.rotation == 0
        pixels = frame.to_ndarray(format="rgb24")
    assert np.abs(pixels.astype(int) - np.rot90(square(4))).mean() < 6


@pytest.mark.parametrize(("space", "curve", "primaries"), [(1, 1, 1), (6, 6, 6), (9, 16, 9), (5, 1, 5)])
def test_colours_are_written_as_they_were_read(net, space, curve, primaries):
    """Of BT.709, of BT.601 in both its names, and of HDR."""
    with av.open("clip.mkv", "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv444p"
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries, context.color_range = space, curve, primaries, 1
        red = np.full((HEIGHT, WIDTH, 3), (220, 30, 60), np.uint8)
        frame = av.VideoFrame.from_ndarray(red, format="rgb24")
        frame = frame.reformat(format="yuv444p", dst_colorspace=5 if space == 6 else space, dst_color_range="MPEG")
        frame.pts = 0
        out.mux([*stream.encode(frame), *stream.encode(None)])
    for name in ("cut.webm", "cut.mov", "cut.mp4"):
        video("clip.mkv", "-o", name, "--no-stretch", *(("--background", "white") if name == "cut.mp4" else ()))
        with av.open(name) as clip:
            frame = next(clip.decode(video=0))
        told = int(frame.colorspace), int(frame.color_trc), int(frame.color_primaries)
        assert told == (6 if space == 5 else space, curve, primaries), name
        if name != "cut.mp4":
            np.testing.assert_allclose(frame.to_ndarray(format="rgb24")[10, 10], red[0, 0], atol=4)


def test_what_is_transparent_stays_so(net):
    clear = [np.dstack([frame, np.where(np.arange(WIDTH) < 16, 0, 255)[None].repeat(HEIGHT, 0)]) for frame in walk(3)]
    write_clip(Path("clip.mov"), [frame.astype(np.uint8) for frame in clear], pixels="rgba")
    video("clip.mov", "-o", "one.webm")
    video("one.webm", "-o", "two.mov")
    for name in ("one.webm", "two.mov"):
        alpha = read_clip(Path(name))[0][0][..., 3]
        assert alpha[:, :14].max() < 12 and alpha[33:35, 18:26].min() > 150


PEAK = """
import re, sys
from pathlib import Path
from u2slim.app.main import main
status = main(sys.argv[1:])
print("peak", re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_clip(net):
    peaks = []
    frames = [square(4 + 4 * (index % 9), 240, 320) for index in range(9)]
    for count in (60, 600):
        write_clip(Path("clip.mp4"), [frames[index % 9] for index in range(count)], codec="libx264", pixels="yuv420p")
        words = ("video", "clip.mp4", "-o", "cut.mp4", "--background", "white", "--net", "net.onnx")
        command = [sys.executable, "-c", PEAK, *words, "--runtime", "opencv"]
        env = THREADS | {"PYTHONPATH": str(REPO / "src"), "U2SLIM_CACHE": str(net.parent)}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0 and f"{count} frames done" in done.stdout, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 30, peaks  # MiB, where 540 frames are 118


def test_ctrl_c_leaves_what_was_there(net, capsys, monkeypatch):
    write_clip(Path("clip.mov"), walk(8))
    Path("cut.webm").write_bytes(b"of before")
    see = FrameMasks.__call__

    def interrupted(self, image):
        if self.frames == 3:
            raise KeyboardInterrupt
        return see(self, image)

    monkeypatch.setattr(FrameMasks, "__call__", interrupted)
    video("clip.mov", "-o", "cut.webm", status=130)
    assert "u2slim: interrupted after 3 frames: cut.webm is not written." in capsys.readouterr().err
    assert Path("cut.webm").read_bytes() == b"of before"
    assert {path.name for path in Path().iterdir()} == {"clip.mov", "net.onnx", "cut.webm"}


def test_refusals_are_a_sentence(net, capsys, monkeypatch):
    clip = write_clip(Path("clip.mov"), walk(2), sound="aac")
    Path("broken.mp4").write_bytes(clip.read_bytes()[:300])
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    whole = write_clip(Path("clip.mkv"), [noise], codec="ffv1", pixels="bgr0").read_bytes()
    Path("bodiless.mkv").write_bytes(whole[:1500])
    Path("empty.mp4").touch()
    Path("folder.webm").mkdir()
    with av.open("tone.wav", "w") as out:
        track = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        heard.rate = 8000
        out.mux(track.encode(heard))
    for words, reason in (
        (("clip.mov", "-o", "cut.mp4"), r".mp4 has no transparency; give a --background"),
        (("clip.mov", "-o", "cut.avi"), "cut.avi: the ending names the format; give one of .webm, .mov, .mp4."),
        (("clip.mov", "-o", "clip.mov"), "is the clip itself"),
        (("clip.mov", "-o", "./folder.webm/../clip.mov"), "is the clip itself"),
        (("clip.mov", "-o", "folder.webm"), "is a folder"),
        (("none.mov", "-o", "cut.webm"), "There is no clip none.mov."),
        (("broken.mp4", "-o", "cut.webm"), "broken.mp4 cannot be read as a clip"),
        (("bodiless.mkv", "-o", "cut.webm"), "bodiless.mkv: no frame of it can be read"),
        (("empty.mp4", "-o", "cut.webm"), "empty.mp4 cannot be read as a clip"),
        (("tone.wav", "-o", "cut.webm"), "tone.wav has no moving picture"),
        (("clip.mov", "-o", "cut.webm", "--background", "nowhere.png"), "nowhere.png is no background"),
        (("clip.mov", "-o", "tone.wav/cut.webm"), "cannot be written"),
    ):
        video(*words, status=1)
        err = capsys.readouterr().err
        last = err.splitlines()[-1]
        assert last.startswith("u2slim: ") and reason in last and "Traceback" not in err, (words, err)
    assert not [path for path in Path().iterdir() if path.name.startswith((".", "cut"))]
    monkeypatch.setitem(sys.modules, "av", None)
    video("clip.mov", "-o", "cut.webm", status=1)
    assert "u2slim video needs av: pip install av, or in a clone" in capsys.readouterr().err


def test_a_clip_that_breaks_off_is_cut_out_as_far_as_it_goes(net, capsys):
    noise = np.random.default_rng(0).integers(0, 60, (20, HEIGHT, WIDTH, 3))
    clip = write_clip(
        Path("clip.mkv"), [np.maximum(square(4), part).astype(np.uint8) for part in noise], None, "ffv1", "bgr0"
    )
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    video("clip.mkv", "-o", "cut.mov")
    count = len(read_clip(Path("cut.mov"))[0])
    assert 5 < count < 15
    assert f"clip.mkv should have about 20 frames, but only {count} can be read" in capsys.readouterr().err


def test_where_nothing_moves_the_net_is_not_asked_again(net, capsys):
    noise = np.random.default_rng(0).normal(0, 2, (12, HEIGHT, WIDTH, 3))
    frames = [np.clip(square(left) + part, 0, 255) for left, part in zip([8] * 8 + [10] * 4, noise, strict=True)]
    write_clip(Path("clip.mov"), [frame.astype(np.uint8) for frame in frames])
    video("clip.mov", "-o", "cut.mov")
    assert (
        "12 frames done with opencv, 10 of them with the previous frame's mask, as nothing moved,"
        in capsys.readouterr().out
    )
    made = read_clip(Path("cut.mov"))[0]
    assert (made[0][..., 3] == made[7][..., 3]).all() and (made[8][..., 3] != made[7][..., 3]).any()


@pytest.mark.parametrize(("step", "noise", "still"), [(0, 3, True), (1, 0, False), (1, 3, False)])
def test_what_moves_is_told_from_noise(step, noise, still):
    """Also a small thing that moves by one pixel of the net's input."""
    rng = np.random.default_rng(0)
    photos = [np.full((320, 320, 3), 90, np.float32) for _ in range(2)]
    for index, photo in enumerate(photos):
        photo[101:106, 101 + step * index : 106 + step * index] = 160
        photo += rng.normal(0, noise, photo.shape).astype(np.float32)
    assert moved(*photos) != still


def flicker(masks: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    pairs = zip(masks, masks[1:], truths, truths[1:], strict=False)
    return float(np.mean([np.abs(new - old)[truth == before].mean() for old, new, before, truth in pairs]))


@pytest.mark.parametrize("speed", [0, 1, 6])
def test_steady_masks_flicker_less_and_do_not_smear(speed):
    """The masks have noise of their own, and the square that moves leaves nothing behind."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 200, (HEIGHT, WIDTH, 3)).astype(np.float32), (0, 0), 2) - 40
    plain, steadied, truths, steady = [], [], [], Steady()
    for index in range(7):
        photo = np.maximum(square(speed * index), texture).astype(np.float32)
        truth = photo[..., 0] > 110
        noise = cv2.GaussianBlur(rng.normal(0, 1, truth.shape).astype(np.float32), (0, 0), 2)
        truths.append(truth)
        plain.append((truth + noise).clip(0, 1).astype(np.float32))
        steadied.append(steady((photo + rng.normal(0, 3, photo.shape)).astype(np.float32), plain[-1]))
    assert flicker(steadied, truths) < 0.7 * flicker(plain, truths)
    for mask, truth in zip(steadied[1:], truths[1:], strict=True):
        assert (truth & (mask > 0.5)).sum() / (truth | (mask > 0.5)).sum() > 0.9


def test_nets_of_few_pixels_are_steadied_too():
    steady, photo, mask = Steady(), np.full((8, 8, 3), 90, np.float32), np.ones((8, 8), np.float32)
    steady(photo, mask)
    np.testing.assert_allclose(steady(photo, 0 * mask), 0.7)


def test_a_cut_begins_anew(net):
    runner, photo = open_net(net).runner("opencv"), square(4)
    masks = FrameMasks(runner, Steady())
    masks(photo)
    np.testing.assert_allclose(masks(255 - photo), runner.small_mask(255 - photo), atol=0.02)
