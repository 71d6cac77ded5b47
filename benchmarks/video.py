"""What --steady buys on a clip, and frames a second: python -m benchmarks.video --clip FOLDER --choose DUTS-TE

FOLDER has images/ and masks/, frames in order, as of a sequence of DAVIS. J is the intersection over union with the
true mask, at a half, in the mean of the frames. Flicker is the mean change of the mask from one frame to the next, in
levels of 255, at pixels where the true mask does not change. Every fifth frame alone is the same clip, moving fast.

--choose prints both for other settings on clips that are made of photos with masks: hand-held views of one, and the
subject of one that crosses another at 1 to 16 pixels a frame, with noise. That is what the settings were chosen by.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter

import av
import cv2
import numpy as np

from u2slim.cutout.backgrounds import open_background
from u2slim.cutout.single import Style
from u2slim.cutout.steady import FrameMasks, Steady
from u2slim.cutout.video import Clip, cut_video
from u2slim.images.read import read_mask, read_photo
from u2slim.runtime import Runner
from u2slim.terminal import rows_as_markdown
from u2slim.zoo import open_net

Frame = tuple[np.ndarray, np.ndarray]  # a photo and whether each of its pixels is of the subject
STEPS = (1, 5)
SETTINGS = ((0.5, 10), (0.5, 20), (0.7, 10), (0.7, 20), (0.8, 10), (0.8, 20), (0.9, 20))  # keep, tolerance
SIZE = (300, 400)  # height and width of made clips
TIMED, ROUNDS = 12, 8  # frames that are timed, so many times
PHOTOS, FRAMES = 12, 16  # clips that are made, and the frames of each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--choose", type=Path, help="a folder with DUTS-TE-Image and DUTS-TE-Mask")
    parser.add_argument("--nets", nargs="+", default=["lite-two-thirds", "lite-s"])
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    runners = {net: open_net(net).runner(options.runtime, True, 1, options.threads) for net in options.nets}
    if options.clip:
        print_clip(runners, read_frames(options.clip))
    if options.choose:
        rows = [[net, *row] for net, runner in runners.items() for row in settings(runner, options.choose)]
        print(rows_as_markdown([["net", "keep", "tolerance", "J", "flicker"], *rows]))


def print_clip(runners: dict[str, Runner], clip: Sequence[Frame]) -> None:
    rows: list[list[str]] = [["net", "frames", "J", "J, steady", "flicker", "flicker, steady", "masks used again"]]
    for net, runner in runners.items():
        for step in STEPS:
            plain, steady = FrameMasks(runner), FrameMasks(runner, Steady())
            both = [scores(clip[::step], masks) for masks in (plain, steady)]
            told = [f"{both[way][number]:{form}}" for number, form in enumerate((".3f", ".2f")) for way in (0, 1)]
            rows.append([net, "all" if step == 1 else f"every {step}th", *told, f"{plain.reused} of {plain.frames}"])
    print(rows_as_markdown(rows), flush=True)
    rows = [["net", "the net alone", "and --steady", ".mov", ".webm", ".webm --steady", ".mp4"]]
    for net, runner in runners.items():
        photos = [photo for photo, _ in clip[:TIMED]]
        rows.append([net, *(f"{len(photos) / seconds:.1f}" for seconds in timed(runner, photos))])
    print(rows_as_markdown(rows), flush=True)


def read_frames(folder: Path) -> list[Frame]:
    photos = sorted((folder / "images").iterdir())
    return [(read_photo(path)[0], read_mask(folder / "masks" / f"{path.stem}.png") >= 128) for path in photos]


def scores(frames: Sequence[Frame], masks: FrameMasks) -> tuple[float, float]:
    """J and flicker."""
    similar, changes, before = [], [], None
    for photo, truth in frames:
        mask = masks.runner.enlarged(masks(photo), photo.shape[:2])
        seen = mask >= 0.5
        similar.append((seen & truth).sum() / max(1, (seen | truth).sum()))
        if before is not None:
            changes.append(255 * np.abs(mask - before[0])[truth == before[1]].mean())
        before = mask, truth
    return float(np.mean(similar)), float(np.mean(changes))


def timed(runner: Runner, photos: Sequence[np.ndarray]) -> list[float]:
    """Seconds of the net alone, with and without steadying, and of whole clips; the best of rounds in turns."""

    def alone(steady: Steady | None) -> None:
        masks = FrameMasks(runner, steady)
        for photo in photos:
            masks(photo)

    def whole(name: str, steady: Steady | None = None) -> None:
        style = Style(background=open_background("white") if name.endswith("mp4") else None)
        with Clip(source) as clip:
            cut_video(clip, source.with_name(name), style, FrameMasks(runner, steady))

    ways = [partial(alone, None), lambda: alone(Steady()), partial(whole, "cut.mov"), partial(whole, "cut.webm")]
    ways += [lambda: whole("cut.webm", Steady()), partial(whole, "cut.mp4")]
    seconds: list[list[float]] = [[] for _ in ways]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "clip.mp4")
        with av.open(str(source), "w") as out:
            stream = out.add_stream("libx264", rate=24)
            stream.height, stream.width = photos[0].shape[:2]
            for photo in photos:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(photo, format="rgb24")))
            out.mux(stream.encode(None))
        for _, (way, taken) in product(range(ROUNDS), zip(ways, seconds, strict=True)):
            start = perf_counter()
            way()
            taken.append(perf_counter() - start)
    return [min(taken) for taken in seconds]


def settings(runner: Runner, folder: Path) -> Iterator[list[str]]:
    """The mean J and flicker of the made clips, by the settings; the net is asked once."""
    clips = [made_clip(folder, number) for number in range(PHOTOS)]
    seen = [[(runner.resized(photo), runner.small_mask(photo)) for photo, _ in clip] for clip in clips]
    for keep, tolerance in ((0, 1), *SETTINGS):
        both = []
        for clip, of_net in zip(clips, seen, strict=True):
            steady = Steady(keep, tolerance)
            given = iter([steady(*one) for one in of_net])
            both.append(scores(clip, Given(runner, given)))
        similar, flicker = np.mean(both, 0)
        yield [f"{keep:g}", f"{tolerance:g}" if keep else "-", f"{similar:.3f}", f"{flicker:.2f}"]


class Given(FrameMasks):
    """Masks that are there already."""

    def __init__(self, runner: Runner, masks: Iterator[np.ndarray]):
        super().__init__(runner)
        self.masks = masks

    def __call__(self, image_HW3: np.ndarray) -> np.ndarray:
        return next(self.masks)


def made_clip(folder: Path, number: int) -> list[Frame]:
    """Every other one is a hand-held view of a photo; in the others its subject crosses another photo."""
    names = np.random.default_rng(0).permutation(sorted(path.stem for path in (folder / "DUTS-TE-Image").iterdir()))
    (photo, mask), (other, _) = (read_pair(folder, names[2 * number + which]) for which in (0, 1))
    rng, speed = np.random.default_rng(number), 2 ** (number // 2 % 5)
    shake = np.cumsum(rng.normal(0, [1.2, 1.2, 0.004], (FRAMES, 3)), 0)
    angle, frames = rng.uniform(0, 2 * np.pi), []
    for index, (x, y, zoom) in enumerate(shake):
        if number % 2 == 0:
            image, truth = (view(pixels, x, y, 1 + zoom) for pixels in (photo, mask))
        else:
            way = (index - FRAMES / 2) * speed * np.array([np.cos(angle), np.sin(angle)])
            subject, truth = (view(pixels, *way, 0.9) for pixels in (photo, mask))
            image = view(other, x, y, 1 + zoom) * (1 - truth[..., None]) + subject * truth[..., None]
        image = (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
        frames.append((cv2.imdecode(encoded, cv2.IMREAD_COLOR), truth >= 0.5))
    return frames


def read_pair(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    photo = read_photo(folder / "DUTS-TE-Image" / f"{name}.jpg")[0]
    return photo.astype(np.float32), read_mask(folder / "DUTS-TE-Mask" / f"{name}.png") / np.float32(255)


def view(pixels: np.ndarray, x: float, y: float, zoom: float) -> np.ndarray:
    """The middle of a photo, moved by so many pixels."""
    (height, width), (own_height, own_width) = SIZE, pixels.shape[:2]
    scale = 1.15 * zoom * max(height / own_height, width / own_width)
    matrix = np.array(
        [[scale, 0, (width - scale * own_width) / 2 + x], [0, scale, (height - scale * own_height) / 2 + y]]
    )
    return cv2.warpAffine(pixels, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


if __name__ == "__main__":
    main()
