"""Choosing between nets: the photos, the score, and the command."""

import json

import cv2
import numpy as np
import py_sod_metrics as sod
import pytest

from tests.conftest import random_net, run, write_set
from u2slim.data.derived import crop, ground, paste, recolour
from u2slim.data.sample import render
from u2slim.data.unlabelled import Photos, drawn
from u2slim.errors import UserError
from u2slim.evaluation import selection_score as scores
from u2slim.evaluation import selection_set as sets
from u2slim.evaluation.selection import verdict
from u2slim.evaluation.selection_score import selection_score
from u2slim.evaluation.selection_set import held_out_pairs, selection_set
from u2slim.images.masks import minmax
from u2slim.runtime import Runner
from u2slim.runtime.onnx_writer import write_onnx


class Painter(Runner):
    """Draws masks from a photo's brightness, blurred by so much, so that two of them differ."""

    runtime = "painter"

    def __init__(self, blur: float):
        super().__init__((40, 40))
        self.blur, self.photos = blur, 0

    def probability(self, image_HW3: np.ndarray) -> np.ndarray:
        self.photos += 1
        return cv2.GaussianBlur(image_HW3.mean(2), (0, 0), self.blur).astype(np.float32) / 255

    def fingerprint(self) -> str:
        return f"painter {self.blur}"


@pytest.fixture
def few(monkeypatch) -> None:
    """Few photos of each sort."""
    monkeypatch.setattr(sets, "COUNTS", {"duts": 3, "davis": 4})
    monkeypatch.setattr(sets, "QUICK", {"duts": 2, "davis": 2})
    selection_set.cache_clear()
    scores._dense_answers.cache_clear()


@pytest.fixture
def davis(tmp_path):
    """Two sequences of three frames."""
    folder = tmp_path / "davis"
    write_set(folder, "images", "masks", 6, first=20)
    for index in range(6):
        for kind, ending in (("images", "jpg"), ("masks", "png")):
            path = folder / kind / f"{20 + index:04d}.{ending}"
            path.rename(path.with_name(f"seq-{'ab'[index // 3]}-{index:05d}.{ending}"))
    return folder


def test_held_out_photos_are_none_that_a_fit_looks_at(duts):
    held = [pair.image for pair in held_out_pairs(duts)]
    photos = Photos.below(duts / "DUTS-TR", 32)
    images = [path for path in photos.sources if path.suffix == ".jpg"]
    assert len(held) == 4 and {*held} < {*images}
    for seed in range(6):
        assert not {*held} & {images[index] for index in drawn(len(images), 4, seed)}


def test_what_is_derived_is_a_function_of_the_seed(duts, davis, few):
    def pixels(seed):
        selection_set.cache_clear()
        return {
            (s.ingredient, s.name): (s.image.tobytes(), s.mask.tobytes())
            for s in selection_set(duts, davis, seed, derived=2)
        }

    once, again, other = pixels(0), pixels(0), pixels(1)
    assert once == again and once.keys() >= {("crops", "crops-1"), ("generated", "generated-0")}
    for (kind, name), shown in once.items():
        assert (other.get((kind, name)) == shown) == (kind in ("duts", "davis"))


def test_derived_photos_keep_their_subjects_and_their_masks_shape():
    image, mask = render(7, 1)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        window, its_mask = crop(image, mask, rng)
        assert window.shape[:2] == its_mask.shape and window.size < image.size and its_mask.max() == 255
        assert recolour(image, rng).shape == image.shape and recolour(image, rng).std() > 5
        plain = np.full((30, 50, 3), 77, np.uint8)
        pasted = paste(image, mask, plain, rng)
        inside = cv2.erode(mask, np.ones((9, 9))) == 255
        np.testing.assert_array_equal(pasted[inside], image[inside])
        assert (pasted[cv2.dilate(mask, np.ones((9, 9))) == 0] == 77).all()
        bare = ground(image, mask)
        far = cv2.dilate((mask > 12).astype(np.uint8), np.ones((11, 11))) == 0
        np.testing.assert_array_equal(bare[far], image[far])
        assert np.abs(bare[inside].astype(int) - image[inside]).mean() > 5


def test_a_net_agrees_with_itself_and_scores_nothing_less(duts, davis, few):
    found = selection_score(Painter(1), duts, davis, dense=Painter(1), derived=2)
    assert found.score == 0 and list(found.ingredients) == list(sets.INGREDIENTS)
    for ingredient in found.ingredients.values():
        assert ingredient.agree == ingredient.agree_min == ingredient.agree_mean == 1
    better = selection_score(Painter(1), duts, davis, dense=Painter(9))
    worse = selection_score(Painter(9), duts, davis, dense=Painter(1))
    gap = sum(better.ingredients[name].maxF - worse.ingredients[name].maxF for name in ("duts", "davis")) / 4
    assert better.score - worse.score == pytest.approx(2 * gap), "both lose the same agreement"
    assert found.ingredients["duts"].images == 3 and found.ingredients["davis"].images == 4


def test_the_numbers_are_those_of_the_masks_and_each_sequence_counts_once(duts, davis, few):
    one, other = Painter(6), Painter(1)
    found = selection_score(one, duts, davis, dense=other)
    photos, curves, maes, ious = selection_set(str(duts), str(davis)), {}, {}, {}
    for shown in (shown for shown in photos if shown.ingredient == "davis"):
        shape = shown.image.shape[1::-1]
        masks = [cv2.resize(minmax(painter.small_mask(shown.image)), shape) for painter in (one, other)]
        masks = [np.rint(minmax(mask) * 255) / 255 for mask in masks]
        f, mae = sod.Fmeasure(), sod.MAE()
        for metric in (f, mae):
            metric.step(np.rint(masks[0] * 255).astype(np.uint8), shown.mask)
        curves.setdefault(shown.group, []).append(f.get_results()["fm"]["curve"])
        maes.setdefault(shown.group, []).append(mae.get_results()["mae"])
        a, b = (mask > 0.5 for mask in masks)
        ious.setdefault(shown.group, []).append((a & b).sum() / (a | b).sum())
    assert list(curves) == ["seq-a", "seq-b"]
    mean = {
        name: np.mean([np.mean(group, 0) for group in by.values()], 0) for name, by in {"f": curves, "m": maes}.items()
    }
    got, agreed = found.ingredients["davis"], [np.mean(group) for group in ious.values()]
    assert got.maxF == pytest.approx(mean["f"].max(), abs=2e-3)
    assert abs(got.MAE - mean["m"]) < 2e-3
    assert got.agree == pytest.approx(np.median(agreed), abs=0.01)
    assert got.agree_min == pytest.approx(min(agreed), abs=0.01)
    assert got.agree_mean == pytest.approx(np.mean(agreed), abs=0.01) and got.agree_mean < 1


def test_photos_without_masks_have_agreement_alone(duts, davis, few, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "one.jpg").write_bytes((davis / "images/seq-a-00001.jpg").read_bytes())
    found = selection_score(Painter(6), duts, davis, dense=Painter(1), photos=own).ingredients["photos"]
    assert found.images == 1 and found.maxF is None and found.MAE is None and 0 < found.agree == found.agree_min < 1
    with pytest.raises(UserError, match="photos="):
        selection_score(Painter(6), duts, davis, dense=Painter(1), photos=tmp_path / "nowhere")


def test_a_second_net_costs_its_own_runs(duts, davis, few):
    dense = Painter(2)
    selection_score(Painter(1), duts, davis, quick=True, dense=dense)
    seen = dense.photos
    assert seen == 4
    again = selection_score(Painter(3), duts, davis, quick=True, dense=dense)
    scores._dense_answers.cache_clear()  # as in another process
    assert selection_score(Painter(3), duts, davis, quick=True, dense=Painter(2)) == again
    assert dense.photos == seen


def test_what_is_missing_is_said_in_a_sentence(duts, davis, tmp_path, few):
    with pytest.raises(UserError, match=r"root=\S*nowhere has no DUTS-TR.*Give its folder"):
        selection_score(Painter(1), tmp_path / "nowhere", davis)
    with pytest.raises(UserError, match=r"davis=\S*data: there is no folder \S*images"):
        selection_score(Painter(1), duts, duts)


def test_the_best_net_comes_first():
    assert verdict({"a": -0.02, "b": 0.001}) == "Best: b. b +0.0010, a -0.0200"


def test_the_command_scores_nets_on_generated_data(tmp_path, duts, davis):
    for name, width in (("a", 64), ("b", 32)):
        write_onnx(random_net(), width, tmp_path / f"{name}.onnx")
    options = (
        "models=[a.onnx,b.onnx]",
        "dense=a.onnx",
        "quick=true",
        "out=scores.json",
        "runtime=onnxruntime",
        "derived=1",
    )
    command = "u2slim.evaluation.selection"
    printed = run(command, *options, f"root={duts}", f"davis={davis}", cwd=tmp_path)
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["a"]["score"] == 0 and found["a"]["ingredients"]["davis"]["agree_min"] == 1
    best, last = max(found, key=lambda name: found[name]["score"]), printed.strip().splitlines()[-1]
    assert last.startswith(f"Best: {best}. {best} ") and f"b {found['b']['score']:+.4f}" in last
    assert "say models=" in run(command, cwd=tmp_path, ok=False).lower()
    printed = run(command, *options, "root=nowhere", f"davis={davis}", cwd=tmp_path, ok=False)
    assert "root=nowhere has no DUTS-TR" in printed and "Traceback" not in printed
