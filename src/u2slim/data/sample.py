"""A generated salient-object set in the DUTS layout: textured scenes, odd objects, exact soft masks."""

import json
import math
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from u2slim.errors import UserError

SAMPLE_VERSION = 1  # raise it whenever render() draws other pictures, so that sets on disk are rebuilt
SUPERSAMPLING = 3
MIN_EDGE_CONTRAST = 24.0  # CIE Lab distance that most of an object's outline must reach
OBJECTS = ("blob", "blob", "polygon", "star", "ring", "vase", "vase", "animal", "animal", "tentacles")
TEXTURES = ("plain", "plain", "noise", "blotches", "stripes", "checks", "dots")

Rng = np.random.Generator
Part = tuple[np.ndarray, int]  # an (N, 2) outline in the shape's own frame, and 1 to fill it or 0 to cut it out


def _noise(rng: Rng, h: int, w: int, cell: float, octaves: int = 3) -> np.ndarray:
    """Multi-scale value noise (h, w), about 0..1, whose largest features are `cell` pixels wide."""
    total = np.zeros((h, w), np.float32)
    for octave in range(octaves):
        step = max(cell / 2**octave, 2.0)
        grid = rng.random((int(h / step) + 3, int(w / step) + 3), np.float32)
        total += cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC) / 2**octave
    return total / (2 - 2 ** (1 - octaves))


def _palette(rng: Rng, spread: float = 0.0) -> np.ndarray:
    """Three RGB colours 0..1, float32 (3, 3): a random one, and two moved from it by `spread` of the way."""
    hsv = np.stack([rng.uniform(0, 360, 3), rng.beta(1.2, 1.6, 3), rng.uniform(0.12, 0.95, 3)], axis=1)
    colours = cv2.cvtColor(hsv[None].astype(np.float32), cv2.COLOR_HSV2RGB)[0]
    return colours[0] + np.float32([[0], [spread], [spread]]) * (colours - colours[0])


def _texture(rng: Rng, h: int, w: int, spread: float, cell: float) -> np.ndarray:
    """A float32 (h, w, 3) pattern in the colours of one palette whose period is about `cell` pixels."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    angle, hardness, level = rng.uniform(0, np.pi), rng.uniform(0.5, 4), rng.uniform(-0.4, 0.4)
    bend = float(rng.choice([0, 0.5, 1.5])) * _noise(rng, h, w, 3 * cell, 2)
    u = (x * math.cos(angle) + y * math.sin(angle)) / cell + bend
    v = (y * math.cos(angle) - x * math.sin(angle)) / cell + bend
    kind = rng.choice(TEXTURES)
    if kind in ("plain", "noise"):
        t = (0.3 if kind == "plain" else 1.0) * _noise(rng, h, w, 2 * cell, 4)
    elif kind == "blotches":
        t = 0.5 + 3 * hardness * (_noise(rng, h, w, 1.5 * cell) - 0.5 - 0.25 * level)
    elif kind == "stripes":
        t = 0.5 + hardness * (np.sin(2 * np.pi * u) - level)
    elif kind == "checks":
        t = 0.5 + hardness * np.sin(np.pi * u) * np.sin(np.pi * v)
    else:
        t = 0.5 + 4 * hardness * (0.3 + 0.25 * level - np.hypot(u % 1 - 0.5, v % 1 - 0.5))
    colours = _palette(rng, spread)
    image = colours[0] + np.clip(t, 0, 1)[..., None] * (colours[1] - colours[0])
    return _over(image, colours[2], rng.uniform(0, 0.6) * _noise(rng, h, w, rng.uniform(3, cell + 3), 2))


def _round(rng: Rng, roughness: float) -> np.ndarray:
    """A smooth star-convex outline of mean radius 1; roughness 0 is a circle."""
    t = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    waves = [np.cos(k * t + rng.uniform(0, 2 * np.pi)) * rng.normal() / k for k in range(2, 7)]
    return _polar(np.clip(1 + roughness * np.sum(waves, axis=0), 0.3, 2), t)


def _polar(r: np.ndarray | float, t: np.ndarray | float) -> np.ndarray:
    return np.stack([r * np.cos(t), r * np.sin(t)], axis=-1)


def _limb(rng: Rng, start: np.ndarray, end: np.ndarray, width: float, taper: float, bend: float) -> np.ndarray:
    """The outline of a curved stroke whose width goes from `width` to `width * taper`."""
    t = np.linspace(0, 1, 20)[:, None]
    along = end - start
    line = start + t * along + 4 * t * (1 - t) * along[::-1] * [-1, 1] * rng.uniform(-bend, bend)
    tangent = np.gradient(line, axis=0)
    half = tangent[:, ::-1] * [-1, 1] / np.linalg.norm(tangent, axis=1, keepdims=True)
    half *= width * (1 + t * (taper - 1)) / 2
    return np.concatenate([line + half, (line - half)[::-1]])


def _animal(rng: Rng) -> list[np.ndarray]:
    """Outlines of a body, head, neck, ears, legs and tail, facing right and upright (y points down)."""
    thick, size, ear = rng.uniform(0.35, 0.65), rng.uniform(0.24, 0.42), rng.uniform(0.1, 0.45)
    head = np.array([rng.uniform(0.9, 1.3), rng.uniform(-1.0, -0.3)])
    parts = [_round(rng, 0.08) * [1, thick], head + _round(rng, 0.1) * [size * 1.15, size]]
    parts.append(_limb(rng, np.array([0.5, 0.0]), head, thick, 0.7, 0.1))
    for side in (-0.6, 0.2):
        root = head + np.array([side, -0.6]) * size
        parts.append(_limb(rng, root, root - [rng.uniform(-0.1, 0.3) * ear, ear], 0.6 * size, 0.2, 0.1))
    length, width = rng.uniform(0.4, 1.0), rng.uniform(0.18, 0.4)
    for x in np.linspace(-0.7, 0.65, int(rng.integers(2, 5))):
        foot = np.array([x + rng.uniform(-0.25, 0.25), thick * 0.7 + length])
        parts.append(_limb(rng, np.array([x, 0.2 * thick]), foot, width, 0.6, 0.12))
    tip = np.array([rng.uniform(-1.9, -1.2), rng.uniform(-1.0, 0.5)])
    return [
        *parts,
        _limb(rng, np.array([-0.8, -0.1]), tip, rng.uniform(0.1, 0.25), rng.uniform(0.3, 1.2), 0.35),
    ]


def _shape(rng: Rng) -> list[Part]:
    """The parts of one random object, about 2 units wide, turned, stretched and mirrored at random."""
    kind = rng.choice(OBJECTS)
    tilt = rng.uniform(-0.3, 0.3) if kind in ("animal", "vase") else rng.uniform(-np.pi, np.pi)
    filled, holes = [_round(rng, float(rng.choice([0, 0.2, 0.4])))], []
    if kind in ("polygon", "star"):
        n = int(rng.integers(3, 8)) if kind == "polygon" else 2 * int(rng.integers(4, 8))
        r = rng.uniform(0.8, 1.2, n) if kind == "polygon" else np.resize([1.2, rng.uniform(0.4, 0.65)], n)
        filled = [_polar(r, (np.arange(n) + rng.uniform(-0.25, 0.25, n)) * 2 * np.pi / n)]
    elif kind == "ring":
        size, offsets = rng.uniform(0.4, 0.7), [-0.4, 0.4] if rng.random() < 0.5 else [0]
        holes = [filled[0] * size / len(offsets) + [offset, 0] for offset in offsets]
    elif kind == "vase":
        y = np.linspace(-1.4, 1.4, 60)
        half = 0.2 + 0.75 * np.clip(_noise(rng, 60, 1, 25, 2)[:, 0], 0, 1)
        filled = [np.concatenate([np.stack([half, y], 1), np.stack([-half, y], 1)[::-1]])]
    elif kind == "animal":
        filled = _animal(rng)
    elif kind == "tentacles":
        for angle in rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))):
            tip = _polar(rng.uniform(1.5, 2.2), angle)
            filled.append(_limb(rng, tip * 0.3, tip, rng.uniform(0.15, 0.4), rng.uniform(0.1, 0.7), 0.3))
    turn = np.diag([rng.choice([-1, 1]), 1]) @ np.stack([_polar(1, tilt), _polar(1, tilt + np.pi / 2)])
    turn = np.diag(rng.uniform(0.75, 1.25, 2)) @ turn
    return [(points @ turn, 1) for points in filled] + [(points @ turn, 0) for points in holes]


def _fill(parts: list[Part], h: int, w: int, scale: float, centre: np.ndarray) -> np.ndarray:
    """Anti-aliased coverage (h, w), float32 0..1, of a shape `scale` pixels a unit around `centre` (x, y)."""
    canvas = np.zeros((h * SUPERSAMPLING, w * SUPERSAMPLING), np.uint8)
    for points, fill in parts:
        cv2.fillPoly(canvas, [np.rint((points * scale + centre) * SUPERSAMPLING).astype(np.int32)], 255 * fill)
    return cv2.resize(canvas, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _place(rng: Rng, h: int, w: int, share: float) -> np.ndarray:
    """Coverage of one random shape that takes about `share` of the image; some cross the border."""
    parts, size = _shape(rng), np.array([w, h])
    unit = _fill(parts, 200, 200, 32, np.array([100, 100])).sum() / 32**2
    points = np.concatenate([points for points, _ in parts])
    low, high = points.min(axis=0), points.max(axis=0)
    scale = min(np.sqrt(share * h * w / unit), (0.95 * size / (high - low)).min())
    half = scale * (high - low) / 2
    middle = np.clip(rng.normal(0.5, 0.17, 2) * size, half, size - half)
    if rng.random() < 0.25:
        axis, side = rng.integers(2), rng.integers(2)
        middle[axis] = side * size[axis] + (1 - 2 * side) * half[axis] * rng.uniform(0.4, 0.95)
    return _fill(parts, h, w, scale, middle - scale * (low + high) / 2)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), max(sigma, 0.1))


def _over(image: np.ndarray, layer: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return image + alpha[..., None] * (layer - image)


def _background(rng: Rng, h: int, w: int) -> np.ndarray:
    """A float32 (h, w, 3) backdrop, perhaps split by a horizon, strewn with faint or blurred things."""
    image = _texture(rng, h, w, rng.uniform(0.15, 0.65), rng.uniform(8, 50))
    if rng.random() < 0.4:
        y, x = np.mgrid[0:h, 0:w].astype(np.float32)
        line = h * rng.uniform(0.25, 0.75) + rng.normal(0, 0.2) * (x - w / 2)
        line += float(rng.choice([0, 30])) * _noise(rng, 1, w, 60)
        ground = _texture(rng, h, w, rng.uniform(0.15, 0.65), rng.uniform(8, 50))
        image = _over(image, ground, np.clip((y - line) / int(rng.choice([1, 10])), 0, 1))
    image *= 0.65 + 0.7 * _noise(rng, h, w, max(h, w), 1)[..., None]  # uneven light
    for _ in range(rng.poisson(1)):  # out of focus, any colour
        alpha = _blur(_place(rng, h, w, rng.uniform(0.01, 0.12)), rng.uniform(8, 18))
        image = _over(image, _palette(rng)[0], 0.6 * alpha)
    for _ in range(rng.poisson(4)):  # sharp, but small and near the background's colour
        alpha = _place(rng, h, w, rng.uniform(0.001, 0.015))
        image = _over(image, _palette(rng)[0], rng.uniform(0.15, 0.35) * alpha)
    for _ in range(rng.poisson(1.5)):
        ends = (rng.random((2, 2)) * [w, h]).astype(int).tolist()
        alpha = cv2.line(np.zeros((h, w), np.float32), *ends, rng.uniform(0.15, 0.5), int(rng.integers(1, 4)))
        image = _over(image, _palette(rng)[0], alpha)
    return _blur(image, rng.uniform(0.8, 2.5))


def _light(rng: Rng, alpha: np.ndarray) -> np.ndarray:
    """Brightness (h, w, 1) of a cushion that rises from alpha's outline, perhaps with a dark contour."""
    inside = np.pad(alpha > 0.5, 1, mode="edge").astype(np.uint8)  # the image border is no outline
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
    rim = max(rng.uniform(0.3, 1.0) * float(depth.max()), 1.0)
    height = _blur(np.sqrt(1 - (1 - np.clip(depth / rim, 0, 1)) ** 2) * rim, 2)
    slope_y, slope_x = np.gradient(height)
    lean = np.stack([slope_x, slope_y], axis=-1) @ _polar(1, rng.uniform(0, 2 * np.pi)).astype(np.float32)
    light = 1 + rng.uniform(0, 0.35) * np.clip(lean, -1, 1)
    return (light * (1 - float(rng.choice([0, 0.4])) * np.exp(-depth / rng.uniform(1, 4))))[..., None]


def _surface(rng: Rng, image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """A lit surface (h, w, 3) whose colours stand out from the image along nearly all of alpha's outline."""
    inside = (alpha > 0.5).astype(np.uint8)
    outline = cv2.morphologyEx(inside, cv2.MORPH_GRADIENT, np.ones((7, 7))) > 0
    around = cv2.cvtColor(np.clip(_blur(image, 3), 0, 1), cv2.COLOR_RGB2LAB)[outline]
    best, best_contrast = image, -1.0
    for _ in range(12):
        cell = np.sqrt(inside.sum()) * rng.uniform(0.08, 0.5)
        surface = _texture(rng, *alpha.shape, rng.uniform(0.3, 1.0), cell) * _light(rng, alpha)
        surface = np.clip(surface, 0, 1).astype(np.float32)
        gap = cv2.cvtColor(surface, cv2.COLOR_RGB2LAB)[outline] - around
        contrast = float(np.percentile(np.linalg.norm(gap, axis=1), 15))
        if contrast > best_contrast:
            best, best_contrast = surface, contrast
        if contrast >= MIN_EDGE_CONTRAST:
            break
    return best


def render(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene, a pure function of (seed, index).

    Returns an RGB image (H, W, 3) uint8 and its mask (H, W) uint8, 0 background to 255 object with soft
    edges; sides are 240..360 px. The mask is the very coverage that the objects were blended with.
    """
    rng = np.random.default_rng([seed, index])
    h, w = (int(side) for side in rng.integers(240, 361, 2))
    image, mask = _background(rng, h, w), np.zeros((h, w), np.float32)
    for share in 0.04 + 0.42 * rng.beta(1.2, 2.0, 2 if rng.random() < 0.15 else 1):
        alpha = _blur(_place(rng, h, w, share), rng.uniform(0.3, 1.0))
        surface = _surface(rng, image, alpha)
        shift = np.float32([[1, 0, rng.normal(0, 8)], [0, 1, rng.uniform(2, 14)]])
        shadow = float(rng.choice([0, 0.5])) * _blur(cv2.warpAffine(alpha, shift, (w, h)), rng.uniform(3, 9))
        image = _over(image * (1 - shadow[..., None]), surface, alpha)
        mask = alpha + mask * (1 - alpha)
    image = np.clip(image * rng.uniform(0.92, 1.08, 3).astype(np.float32), 0, 1) ** rng.uniform(0.8, 1.25)
    image = _blur(image, rng.uniform(0, 0.6))
    image += rng.uniform(0, 0.03) * rng.standard_normal(image.shape, np.float32)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), np.rint(mask * 255).astype(np.uint8)


def _write_pair(job: tuple[Path, int, int]) -> None:
    split, seed, index = job
    image, mask = render(seed, index)
    photo = split / f"{split.name}-Image" / f"sample_{index:05d}.jpg"
    label = split / f"{split.name}-Mask" / f"sample_{index:05d}.png"
    saved = cv2.imwrite(str(photo), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not (saved and cv2.imwrite(str(label), mask)):
        raise OSError(f"could not write {photo} or {label}")


def _is_complete(root: Path, record: dict[str, int]) -> bool:
    try:
        if json.loads((root / "sample.json").read_text()) != record:
            return False
    except (OSError, ValueError):
        return False
    wanted = {"DUTS-TR": record["train"], "DUTS-TE": record["test"]}
    folders = {root / name / f"{name}-{kind}": count for name, count in wanted.items() for kind in ("Image", "Mask")}
    return all(len(list(folder.glob("sample_*"))) == count for folder, count in folders.items())


def _refuse_foreign(root: Path) -> None:
    """Raise UserError unless root is absent, empty, or holds a sample set and nothing else."""
    names = {path.name for path in root.iterdir()} if root.is_dir() else {root.name} if root.exists() else set()
    if names and ("sample.json" not in names or names - {"sample.json", "DUTS-TR", "DUTS-TE"}):
        raise UserError(
            f"{root} holds files that are not a generated sample set, so nothing was written there. "
            "Move them away, or choose another folder for the sample set."
        )


def _build(root: Path, record: dict[str, int], workers: int) -> None:
    """Write every pair and, when all are there, sample.json."""
    jobs: list[tuple[Path, int, int]] = []
    for name, count in (("DUTS-TR", record["train"]), ("DUTS-TE", record["test"])):
        for kind in ("Image", "Mask"):
            (root / name / f"{name}-{kind}").mkdir(parents=True)
        first = len(jobs)
        jobs += [(root / name, record["seed"], first + i) for i in range(count)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        for _ in track(pool.map(_write_pair, jobs, chunksize=8), "Drawing the sample set", len(jobs)):
            pass
    (root / "sample.json").write_text(json.dumps(record))


def write_sample_set(root: Path, train: int = 320, test: int = 80, seed: int = 0, workers: int | None = None) -> Path:
    """Make sure that root holds the generated set in the DUTS layout, and return root.

    root/DUTS-TR/DUTS-TR-Image/sample_00000.jpg and root/DUTS-TR/DUTS-TR-Mask/sample_00000.png are the first
    of `train` pairs; DUTS-TE continues with the next `test` indices. A set already there with the same
    parameters is kept, one with others is replaced, and a folder with anything else in it raises UserError.
    `workers` is the number of processes (default: one a core, at most 8).
    """
    home = Path(root).resolve()
    record = {"version": SAMPLE_VERSION, "seed": seed, "train": train, "test": test}
    if _is_complete(home, record):
        return root
    _refuse_foreign(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{home.name}-", dir=home.parent) as scratch:
        fresh = Path(scratch) / "set"
        _build(fresh, record, workers or min(os.cpu_count() or 1, 8))
        if _is_complete(home, record):  # another process was faster
            return root
        with suppress(FileNotFoundError):  # absent, or another process has just moved the old set away
            _refuse_foreign(home)
            home.rename(Path(scratch) / "old")
        try:
            fresh.rename(home)
        except OSError:
            if not _is_complete(home, record):
                raise
    return root
