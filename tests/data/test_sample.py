"""The generated sample set: repeatable scenes, exact masks, safe files, and no trivial solution."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from u2slim.data.sample import render, write_sample_set
from u2slim.errors import UserError


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    return [render(0, index) for index in range(40)]


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def iou(guess: np.ndarray, mask: np.ndarray) -> float:
    truth = mask > 127
    return float((guess & truth).sum() / (guess | truth).sum())


def otsu(channel: np.ndarray) -> np.ndarray:
    """The side of Otsu's threshold that covers less of the image border."""
    bright = cv2.threshold(channel, 0, 255, cv2.THRESH_OTSU)[1] > 0
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    return ~bright if border.mean() > 0.5 else bright


def test_render_depends_on_seed_and_index_alone():
    image, mask = render(3, 5)
    np.random.seed(1)
    again, mask_again = render(3, 5)
    assert image.tobytes() == again.tobytes() and mask.tobytes() == mask_again.tobytes()
    for other in (render(3, 6), render(4, 5)):
        assert other[0].tobytes() != image.tobytes() and other[1].tobytes() != mask.tobytes()


def test_shapes_types_and_soft_edges(scenes):
    for image, mask in scenes:
        assert image.dtype == mask.dtype == np.uint8
        assert image.shape == (*mask.shape, 3)
        assert all(240 <= side <= 360 for side in mask.shape)
        soft = ((mask > 0) & (mask < 255)).mean()
        assert 0 < soft < 0.2
    assert len({mask.shape for _, mask in scenes}) > 20


def test_foreground_share(scenes):
    shares = [(mask > 127).mean() for _, mask in scenes]
    assert min(shares) > 0.01 and max(shares) < 0.7
    assert 0.10 <= np.mean(shares) <= 0.30


def test_mask_outline_lies_on_the_image_edge(scenes):
    """Moved by a few pixels in any direction, the outline meets weaker image edges than where it is."""
    offsets = [(0, 0), (4, 0), (-4, 0), (0, 4), (0, -4)]
    strengths = []
    for image, mask in scenes:
        lab = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), (0, 0), 1).astype(np.float32)
        edges = np.hypot(cv2.Sobel(lab, cv2.CV_32F, 1, 0), cv2.Sobel(lab, cv2.CV_32F, 0, 1)).sum(axis=2)
        outline = cv2.morphologyEx((mask > 127).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
        strengths.append([edges[np.roll(outline, offset, (0, 1))].mean() for offset in offsets])
    here, *moved = np.array(strengths).T
    assert (here > np.max(moved, axis=0)).mean() > 0.95
    assert here.mean() > 1.5 * np.mean(moved)


def test_neither_a_threshold_nor_the_mean_mask_solves_it(scenes):
    gray = [iou(otsu(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)), mask) for image, mask in scenes]
    saturation = [iou(otsu(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1]), mask) for image, mask in scenes]
    masks = [cv2.resize(mask, (128, 128), interpolation=cv2.INTER_AREA) for _, mask in scenes]
    mean = np.mean(masks, axis=0)
    centre = [np.mean([iou(mean > level, mask) for mask in masks]) for level in range(20, 140, 10)]
    assert np.mean(gray) < 0.5 and np.mean(saturation) < 0.5 and max(centre) < 0.5


def test_layout_and_contents(tmp_path):
    root = tmp_path / "new" / "sample"
    assert write_sample_set(root, train=3, test=2, seed=7, workers=1) == root
    pairs = [("DUTS-TR", range(3)), ("DUTS-TE", range(3, 5))]
    wanted = {f"{name}/{name}-Image/sample_{i:05d}.jpg" for name, indices in pairs for i in indices}
    wanted |= {f"{name}/{name}-Mask/sample_{i:05d}.png" for name, indices in pairs for i in indices}
    assert set(snapshot(root)) == wanted | {"sample.json"}
    assert [path.name for path in root.parent.iterdir()] == ["sample"]
    image, mask = render(7, 3)
    read = cv2.imread(str(root / "DUTS-TE/DUTS-TE-Image/sample_00003.jpg"))[..., ::-1]
    assert np.abs(read.astype(int) - image).mean() < 8
    assert np.array_equal(cv2.imread(str(root / "DUTS-TE/DUTS-TE-Mask/sample_00003.png"), -1), mask)


def test_kept_when_the_same_and_rebuilt_when_not(tmp_path):
    root = tmp_path / "sample"
    write_sample_set(root, train=2, test=1, workers=1)
    before = snapshot(root)
    write_sample_set(root, train=2, test=1, workers=1)
    assert snapshot(root) == before

    write_sample_set(root, train=1, test=1, seed=1, workers=1)
    changed = snapshot(root)
    assert len(changed) == 5 and json.loads(changed["sample.json"][1])["seed"] == 1

    (root / "DUTS-TR/DUTS-TR-Mask/sample_00000.png").unlink()
    write_sample_set(root, train=1, test=1, seed=1, workers=1)
    assert {name: data for name, (_, data) in snapshot(root).items()} == {
        name: data for name, (_, data) in changed.items()
    }


@pytest.mark.parametrize("names", [["DUTS-TR/DUTS-TR-Image/mine.jpg"], ["sample.json", "notes.txt"]])
def test_foreign_files_are_refused_and_left_alone(tmp_path, names):
    root = tmp_path / "data"
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    before = snapshot(root)
    with pytest.raises(UserError, match="data"):
        write_sample_set(root, train=1, test=1, workers=1)
    assert snapshot(root) == before and list(tmp_path.iterdir()) == [root]


def test_two_at_once_leave_one_whole_set(tmp_path):
    root = tmp_path / "sample"
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(write_sample_set, root, 2, 1, 0, 1) for _ in range(2)]
        assert [job.result() for job in jobs] == [root, root]
    assert len(snapshot(root)) == 7 and list(tmp_path.iterdir()) == [root]
