"""What augmentation does to image and mask: to the pixel, by address, and as the preview shows it."""

import hashlib
import inspect
import os
import pickle
import random
import subprocess
import sys
from functools import partial

import albumentations as A
import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from tests.conftest import REPO
from u2slim.data.labels import SCENES
from u2slim.data.preview import write_preview
from u2slim.data.sample import render
from u2slim.data.transforms import Around, strong, subject, u2net
from u2slim.errors import UserError

DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(strong).parameters.items()}
PARTS = [name for name in DEFAULTS if name.endswith("_p")]
OFF = dict.fromkeys(PARTS, 0.0)


def draw(augment: A.Compose, k: int, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([0, 1, k])
    augment.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    out = augment(image=image, mask=mask)
    return out["image"], out["mask"]


def scene(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A rendered photo and its mask of 0 and 255."""
    image, mask = (cv2.resize(pixels, (size, size)) for pixels in render(7, 3))
    return image, np.where(mask > 127, 255, 0).astype(np.uint8)


def flipped(pixels: np.ndarray) -> list[np.ndarray]:
    return [pixels, pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1]]


def is_flip(pixels: np.ndarray, of: np.ndarray) -> bool:
    return any(np.array_equal(pixels, turned) for turned in flipped(of))


def stripes(size: int, axis: int) -> np.ndarray:
    """(size, size) uint8 bars of 8 pixels, 0 and 255."""
    bars = np.tile(np.arange(size) // 8 % 2 * 255, (size, 1)).astype(np.uint8)
    return bars if axis else np.ascontiguousarray(bars.T)


def misplaced(image: np.ndarray, grid: np.ndarray, k: int) -> int:
    """Pixels whose mask is on the wrong side of the image's edges, which linear interpolation puts at 127.5."""
    out, mask = draw(strong(**OFF | {"affine_p": 1.0}), k, np.dstack([image] * 3), grid)
    assert set(np.unique(mask)) == {0, 255}
    level = out[..., 0].astype(int)
    sure = abs(level - 127.5) > 16  # OpenCV's coordinates have steps of 1/32 pixel, 8 grey levels
    return int(((level > 127) != (mask > 127))[sure].sum())


@pytest.mark.parametrize("axis", [0, 1])
def test_rotation_and_scale_keep_the_mask_on_the_image(axis):
    grid = stripes(320, axis)
    for k in range(25):
        assert misplaced(grid, grid, k) == 0
        half = ((grid.astype(int) + np.roll(grid, 1, axis)) // 2).astype(np.uint8)
        assert misplaced(half, grid, k) > 1000  # so the test sees half a pixel,
        assert misplaced(np.roll(grid, 1, axis), grid, k) > 2000  # and a whole one


def test_blur_does_not_move_the_image():
    image = np.zeros((101, 101, 3), np.uint8)
    image[50, 50] = 255
    blur = strong(101, 1.0, **OFF | {"blur_p": 1.0}, blur_sigma=(1.0, 1.5))
    for k in range(40):
        out, _ = draw(blur, k, image, image[..., 0])
        weights = out[..., 0] / out[..., 0].sum()
        assert abs(weights.sum(0) @ np.arange(101) - 50) < 0.01 and abs(weights.sum(1) @ np.arange(101) - 50) < 0.01


def test_masks_become_grey_only_on_request():
    image, mask = scene(160)
    for augment in (u2net(160), strong(160), strong(160, affine_p=1)):
        assert all(set(np.unique(draw(augment, k, image, mask)[1])) <= {0, 255} for k in range(50))
    soft = strong(160, affine_p=1, soft_masks=True)
    assert all(len(np.unique(draw(soft, k, image, mask)[1])) > 3 for k in range(20))


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_strong_happens_as_often_as_it_says(part):
    image, mask = scene(96)
    augment = strong(96, 1.0, **OFF | {part: DEFAULTS[part]})
    draws = [draw(augment, k, image, mask) for k in range(200)]
    seen = sum(not is_flip(out, image) for out, _ in draws)
    assert abs(seen / 200 - DEFAULTS[part]) < 0.1
    moved = sum(not is_flip(out, mask) for _, out in draws)
    assert moved > 20 if part in ("affine_p", "occlusion_p") else moved == 0


def test_occluded_parts_leave_the_mask():
    image, mask = scene(96)
    for k in range(30):
        out, left = draw(strong(96, 1.0, **OFF | {"occlusion_p": 1.0}), k, image, mask)
        turned = [(a, b) for a, b in zip(flipped(image), flipped(mask), strict=True) if (a == out).mean() > 0.7]
        hidden = (turned[0][0] != out).any(-1)
        assert len(turned) == 1 and not left[hidden].any()
        near = cv2.dilate(hidden.astype(np.uint8), np.ones((5, 5))) > 0  # a hole's pixel may have its own colour
        assert np.array_equal(left[~near], turned[0][1][~near])


def test_noise_has_the_strength_it_says():
    image = np.full((256, 256, 3), 128, np.uint8)
    for sigma in (2.0, 12.0):
        out, _ = draw(strong(256, **OFF | {"noise_p": 1.0}, noise_sigma=(sigma, sigma)), 0, image, image[..., 0])
        assert abs(out.std() - sigma) < 0.03 * sigma and abs(out.mean() - 128) < 0.1


def digests(augment: A.Compose, order, image: np.ndarray, mask: np.ndarray) -> dict[int, str]:
    found = {}
    for k in order:
        random.seed(len(found))
        np.random.seed(len(found))
        cv2.setRNGSeed(len(found))
        found[k] = hashlib.sha256(b"".join(out.tobytes() for out in draw(augment, k, image, mask))).hexdigest()
    return found


ELSEWHERE = """
import pickle, sys
import u2slim.data.transforms
from albumentations import check_version
assert check_version.opener is None, "the import asked the network"
from tests.data.test_augment import digests
print(digests(*pickle.load(sys.stdin.buffer)))
"""


def test_a_sample_is_a_function_of_its_state():
    image, mask = scene(96)
    every = strong(96, **dict.fromkeys(PARTS, 0.8))
    here = digests(every, range(40), image, mask)
    assert len(set(here.values())) == 40
    assert here == digests(every, reversed(range(40)), image, mask)
    assert here == digests(strong(96, **dict.fromkeys(PARTS, 0.8)), range(40), image, mask)
    around = digests(subject(96), range(40), image, mask)
    assert len(set(around.values())) == 40 and around == digests(subject(96), reversed(range(40)), image, mask)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=pickle.dumps((every, list(range(30, 40)), image, mask)),
        env={key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"},
        cwd=REPO,
        capture_output=True,
        timeout=120,
    )
    assert done.stdout.decode().strip() == str({k: here[k] for k in range(30, 40)}), done.stderr.decode()


def configured(name: str, *overrides: str):
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return compose(name, overrides=list(overrides))


@pytest.mark.filterwarnings("error:.*not valid for transform.*", "error::UserWarning")
@pytest.mark.parametrize("name", sorted(path.stem for path in (REPO / "conf" / "augment").glob("*.yaml")))
def test_every_configured_augment_works(name):
    labels = name == "scene"
    options = ("task=semantic", "data.crop=[40,56]") if labels else ("data.size=64",)
    cfg = configured("train", *options, f"augment={name}").data.augment
    augment = pickle.loads(pickle.dumps(instantiate(cfg)))
    sides = (40, 56) if labels else 2 * (round(64 * cfg.get("crop", 1)),)
    for k in range(10):
        out, mask = draw(augment, k, *scene(64))
        assert out.shape == (*sides, 3) and mask.shape == sides
        assert out.dtype == mask.dtype == np.uint8
    if name == "strong":
        settings = OmegaConf.to_container(cfg) | {"_target_": None, "size": 320}
        assert settings == {"_target_": None} | {k: list(v) if type(v) is tuple else v for k, v in DEFAULTS.items()}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"crop": 1.5}, "crop=1.5 must be a share"),
        ({"hole_side": (0.1, 20)}, "hole_side=.* shares"),
        ({"jpeg_quality": (0, 90)}, "quality_range.* 1 and <= 100"),
        ({"noise_sigma": (9, 2)}, "must be rising"),
        ({"blur_p": 3}, "blur_p=3 must be from 0 to 1"),
        ({"scale": 2}, "wrong setting"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(UserError, match=message):
        strong(**setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"around": 2}, "around=2: give a probability"),
        ({"margin": (3, 1)}, r"margin=\[3, 1\]: give the lowest"),
        ({"least": 0}, "least=0: give a share"),
        ({"blur_p": 3}, "blur_p=3 must be from 0 to 1"),
    ],
)
def test_wrong_settings_of_windows_are_named(setting, message):
    with pytest.raises(UserError, match=message):
        subject(**setting)


class AsItIs:
    """A recipe that changes nothing."""

    def set_random_state(self, *states) -> None: ...

    def __call__(self, **pixels: np.ndarray) -> dict[str, np.ndarray]:
        return pixels


def windows(mask: np.ndarray, **settings) -> list[tuple[int, int, int, int]]:
    """Top, bottom, left and right of what 60 samples show of an image; masks must show the same."""
    rows, columns = (np.indices(mask.shape) + 0.5).astype(np.float32)
    image = np.dstack([rows, columns, mask.astype(np.float32)])
    augment = Around(AsItIs(), **{"p": 1, "margin": (0.3, 3), "least": 0.25} | settings)
    found = []
    for k in range(60):
        shown, part = draw(augment, k, image, mask)
        assert shown.shape == image.shape and part.shape == mask.shape
        assert ((shown[..., 2] > 127.5) == (part > 127))[abs(shown[..., 2] - 127.5) > 127 / 2].all()
        edges = shown[0, 0, 0], shown[-1, 0, 0], shown[0, 0, 1], shown[0, -1, 1]
        found.append(tuple(int(edge) for edge in edges))
    return found


def test_windows_hold_a_part_of_the_mask_with_a_margin_in_the_images_proportions():
    mask = np.zeros((120, 200), np.uint8)
    mask[60:90, 20:50] = 255
    seen = windows(mask)
    for top, bottom, left, right in seen:
        assert top <= 60 and bottom >= 89 and left <= 20 and right >= 49
        height, width = bottom + 1 - top, right + 1 - left
        assert 30 * 1.3 - 1 <= height <= 30 * 4 + 1 and abs(width / height - 200 / 120) < 0.1
    heights = [bottom + 1 - top for top, bottom, *_ in seen]
    assert min(heights) < 50 and max(heights) > 100 and len(set(seen)) > 50
    mask[:] = 0
    mask[10:14, 10:14] = mask[110:118, 150:158] = 255
    seen = windows(mask, margin=(0, 0))
    assert all((bottom + 1 - top, right + 1 - left) == (30, 50) for top, bottom, left, right in seen), "a quarter"
    shares = [(top <= 110 and bottom >= 117 and right >= 157) for top, bottom, _, right in seen]
    assert 30 < sum(shares) < 50, "a part of four times the area is taken twice as often"


def test_the_whole_image_is_taken_where_there_is_no_part_and_as_often_as_asked():
    whole = (0, 119, 0, 199)
    mask = np.zeros((120, 200), np.uint8)
    assert set(windows(mask)) == {whole}
    mask[60:70, 20:30] = 255
    assert 18 < windows(mask, p=0.5).count(whole) < 42
    mask[:] = 255
    assert set(windows(mask)) == {whole}


@pytest.mark.parametrize("recipe", [u2net, partial(strong, **OFF)])
def test_photos_stay_upright_where_it_is_asked(recipe):
    rows = np.tile(np.arange(64, dtype=np.uint8)[:, None], 64)
    for p in (0, 1):
        augment = recipe(64, 0.5, upside_down=p)
        masks = [draw(augment, k, np.dstack([rows] * 3), rows)[1] for k in range(20)]
        assert all((mask[0, 0] > mask[-1, 0]) == p for mask in masks)


@pytest.mark.parametrize("recipe", [u2net, strong, subject])
def test_a_probability_above_one_is_refused(recipe):
    with pytest.raises(UserError, match="upside_down=50"):
        recipe(upside_down=50)


def test_preview_shows_every_image_with_its_samples(tmp_path):
    for folder in ("images", "ground_truth_mask"):
        (tmp_path / "ECSSD" / folder).mkdir(parents=True)
    for index in range(3):
        image, mask = render(7, index)
        Image.fromarray(image).save(tmp_path / "ECSSD" / "images" / f"{index}.png")
        Image.fromarray(mask).save(tmp_path / "ECSSD" / "ground_truth_mask" / f"{index}.png")
    cfg = configured("preview", "data=ecssd", f"data.root={tmp_path}", "images=2", "draws=3", "title=strong")
    sheets = []
    for name in ("a.png", "b.png"):
        write_preview(cfg, tmp_path / name)
        sheets.append(np.array(Image.open(tmp_path / name)))
    assert sheets[0].shape == (30 + 2 * (320 + 18 + 8), 2 * 320 + 3 * 288 + 6 * 8, 3)
    assert np.array_equal(*sheets)
    samples = sheets[0][:, 2 * (320 + 8) :]
    assert ((samples == (255, 0, 255)).all(-1)).sum() > 1000  # the outlines
    scenes = ("data=sample_semantic", f"data.root={tmp_path}", "title=classes")
    colours = {tuple(colour) for colour in SCENES.palette}
    write_preview(configured("preview", *scenes, "augment=scene"), tmp_path / "c.png")
    classes = np.array(Image.open(tmp_path / "c.png"))[30 : 30 + 2 * 96, 2 * 128 + 16 : 4 * 128 + 16]
    assert len(colours & set(map(tuple, classes.reshape(-1, 3)))) >= 3, "the first image's classes in their colours"
    with pytest.raises(UserError, match="draws=0"):
        write_preview(configured("preview", "draws=0", "title=strong"), tmp_path / "c.png")
    with pytest.raises(UserError, match="ends in .png"):
        write_preview(cfg, tmp_path / "c.jpg")


@pytest.mark.parametrize("recipe", [u2net, strong, subject])
def test_images_need_not_be_squares(recipe):
    image = cv2.resize(render(7, 3)[0], (200, 120))
    mask = np.where(image[..., 0] > 100, 255, 0).astype(np.uint8)
    for k in range(4):
        made, marked = draw(recipe([120, 200], crop=0.8), k, image, mask)
        assert made.shape == (96, 160, 3) and marked.shape == (96, 160)
