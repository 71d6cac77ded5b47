"""Scores, the store behind them, and what becomes of bad input."""

import csv
import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import py_sod_metrics as sod
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from PIL import Image
from scipy.ndimage import distance_transform_cdt

import u2slim
from tests.conftest import random_net, write_set
from u2slim.data.catalog import get_data_set
from u2slim.data.pairs import find_pairs
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.evaluation import score_sets as run
from u2slim.evaluation import store
from u2slim.evaluation.boundary import boundary_iou, relaxed_boundary_f
from u2slim.evaluation.entries import Model, net_gmac, net_model, onnx_facts, open_models, with_latencies
from u2slim.evaluation.pictures import worst_and_median
from u2slim.evaluation.results import SCORES, ModelFacts, Result
from u2slim.evaluation.score_sets import score_all, summarise
from u2slim.evaluation.scoring import IMAGE_SCORES, score, score_image
from u2slim.evaluation.store import Store
from u2slim.evaluation.tables import as_csv, as_json, as_latex, as_markdown, write_images
from u2slim.export.calibration import input_blobs
from u2slim.export.half import store_in_half
from u2slim.export.packed import store_packed
from u2slim.images.masks import enlarge, to_8bit
from u2slim.images.preprocess import Preprocess
from u2slim.images.refine import GuidedFilter
from u2slim.models import DepthwiseSeparableConv, GroupedConv, StandardConv
from u2slim.report.page import write_page
from u2slim.runtime import Runner, net_runner, onnx_runner
from u2slim.runtime.onnx_writer import write_onnx

PACKAGE = Path(u2slim.__file__).parent
REWRITTEN = 5e-3  # what `runtime.onnx_rewrites` adds or takes, of a net's multiplications


def hand_made() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Predictions and their masks, by what they are."""
    mask = np.zeros((60, 80), np.uint8)
    mask[15:45, 20:55] = 255
    soft = cv2.GaussianBlur(mask, (0, 0), 4)
    thin = np.zeros_like(mask)
    thin[30, 10:70] = 255
    nothing, everything = np.zeros_like(mask), np.full_like(mask, 255)
    return {
        "perfect": (mask, mask),
        "inverted": (255 - mask, mask),
        "soft": (soft, mask),
        "narrow range": (soft // 3 + 60, mask),
        "constant": (np.full_like(mask, 77), mask),
        "empty prediction": (nothing, mask),
        "empty mask": (soft, nothing),
        "both empty": (nothing, nothing),
        "full mask": (soft, everything),
        "thin": (thin, thin),
        "thin against soft": (soft, thin),
    }


def by_pysodmetrics(pairs, normalize: bool = True) -> dict[str, float]:
    """The averages that `pysodmetrics` gives when it is called directly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mae, s, wf, e, old = sod.MAE(), sod.Smeasure(), sod.WeightedFmeasure(), sod.Emeasure(), sod.Fmeasure()
        iou = sod.FmeasureV2({"iou": sod.IOUHandler(with_dynamic=True, with_adaptive=False, with_binary=True)})
        for prediction, mask in pairs:
            if not normalize:
                prediction, mask = prediction / 255, mask > 128
            for metric in (mae, s, wf, e, old, iou):
                metric.step(prediction, mask, normalize=normalize)
    f, em, iou = old.get_results(), e.get_results()["em"], iou.get_results()["iou"]
    precision, recall = f["pr"]["p"], f["pr"]["r"]
    return {
        "MAE": mae.get_results()["mae"],
        "maxF": f["fm"]["curve"].max(),
        "maxF_set": (1.3 * precision * recall / np.maximum(0.3 * precision + recall, 1e-12)).max(),
        "meanF": f["fm"]["curve"].mean(),
        "adpF": f["fm"]["adp"],
        "wF": wf.get_results()["wfm"],
        "S": s.get_results()["sm"],
        "maxE": em["curve"].max(),
        "meanE": em["curve"].mean(),
        "adpE": em["adp"],
        "mIoU": iou["dynamic"].mean(),
        "IoU": iou["binary"],
    }


@pytest.mark.parametrize("stretch", [True, False])
@pytest.mark.parametrize("kind", hand_made())
def test_each_hand_made_pair_scores_exactly_as_pysodmetrics(kind, stretch):
    prediction, mask = hand_made()[kind]
    expected = by_pysodmetrics([(prediction, mask)], normalize=stretch)
    ours = dict(zip(IMAGE_SCORES, score(prediction, mask, stretch).values, strict=True))
    del expected["maxF_set"]  # what a set has
    # OpenCV may add the weighted F's window up in another order than scipy.
    assert ours["wF"] == pytest.approx(expected.pop("wF"), rel=0, abs=1e-12)
    assert {name: ours[name] for name in expected} == expected


def square(top: int, left: int, side: int, size: int = 60) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_relaxed_boundary_f_by_hand():
    one = square(20, 20, 20)
    assert relaxed_boundary_f(one, one) == 1
    assert relaxed_boundary_f(square(20, 23, 20), one) == 1, "an outline 3 pixels off is right"
    # 4 pixels to the right: of 76 outline pixels each, all are within 3 pixels but the far vertical side.
    # Predicted: right side (20) and the end of its top and bottom rows next to it; the truth's left side likewise.
    shifted, right = square(20, 24, 20), np.zeros((60, 60), bool)
    outline = one & ~square(21, 21, 18)
    y, x = np.nonzero(outline)
    for row, column in zip(*np.nonzero(shifted & ~square(21, 25, 18)), strict=True):
        right[row, column] = np.hypot(y - row, x - column).min() <= 3
    share = right.sum() / 76
    assert 0.5 < share < 0.8
    assert relaxed_boundary_f(shifted, one) == pytest.approx(share), "precision and recall are equal by symmetry"


def test_relaxed_boundary_f_measures_euclidean_distance_and_weighs_precision():
    dot = square(30, 30, 1)
    assert relaxed_boundary_f(square(30, 33, 1), dot) == 1
    assert relaxed_boundary_f(square(33, 33, 1), dot) == 0, "the diagonal is 4.2 pixels away"
    precision, recall = 0.5, 1.0
    assert relaxed_boundary_f(dot | square(10, 10, 1), dot) == pytest.approx(
        1.3 * precision * recall / (0.3 * precision + recall)
    )


def test_relaxed_boundary_f_of_nothing():
    nothing, one = square(0, 0, 0), square(20, 20, 20)
    assert relaxed_boundary_f(nothing, nothing) == 1
    assert relaxed_boundary_f(nothing, one) == relaxed_boundary_f(one, nothing) == 0
    assert relaxed_boundary_f(~nothing, ~nothing) == 1, "the frame is no outline"
    assert relaxed_boundary_f(~nothing, one) == 0


def band_by_distance(mask: np.ndarray, width: int) -> np.ndarray:
    return mask & (distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1] <= width)


def test_boundary_iou_compares_bands_of_two_percent_of_the_diagonal():
    actual = square(20, 20, 60, 150)
    predicted = square(22, 21, 61, 150)
    predicted[:30, :30] = True  # touches the frame
    width = 4  # .02 * 150 * sqrt(2) = 4.24
    a, p = band_by_distance(actual, width), band_by_distance(predicted, width)
    assert a.sum() == 60**2 - 52**2
    assert boundary_iou(predicted, actual) == (a & p).sum() / (a | p).sum()
    assert boundary_iou(actual, actual) == 1
    assert boundary_iou(~actual, np.zeros_like(actual)) == 0
    holed = actual & ~square(45, 45, 10, 150)
    assert boundary_iou(holed, actual) < 1


@pytest.fixture
def ecssd(tmp_path):
    """A data root with ten ECSSD pairs, and a folder of soft predictions for them."""
    write_set(tmp_path / "ECSSD", "images", "ground_truth_mask", 10)
    predictions = tmp_path / "theirs"
    predictions.mkdir()
    for pair in find_pairs(get_data_set("ecssd"), tmp_path):
        mask = np.asarray(Image.open(pair.mask))
        soft = cv2.GaussianBlur(np.roll(mask, 5, 1), (0, 0), 5) // 2 + 20
        Image.fromarray(soft).save(predictions / f"{pair.name}.png")
    return tmp_path


def masks_of(folder) -> Model:
    return Model(ModelFacts(), folder=folder)


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("stretch", [True, False])
def test_a_folder_of_masks_scores_as_pysodmetrics(ecssd, stretch):
    pairs = find_pairs(get_data_set("ecssd"), ecssd)
    kept = Store(ecssd / "scores.sqlite")
    scored = score_all({"theirs": masks_of(ecssd / "theirs")}, {"ecssd": pairs}, kept, workers=2)
    result = summarise("theirs", scored["theirs", "ecssd"], kept, stretch)
    both = [(read(ecssd / "theirs" / f"{pair.name}.png"), read(pair.mask)) for pair in pairs]
    expected = by_pysodmetrics(both, normalize=stretch)
    assert {name: result.scores[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert result.images == 10 and not result.left_out and tuple(result.scores) == SCORES
    assert result.scores["IoU"] == pytest.approx(result.image_ious.mean())
    at_half = {"relaxF": relaxed_boundary_f, "bIoU": boundary_iou}
    for name, function in at_half.items():
        values = []
        for prediction, mask in both:
            low, high = (prediction.min(), prediction.max()) if stretch else (0, 255)
            values.append(function((prediction - low) / (high - low) > 0.5, mask > 128))
        assert result.scores[name] == pytest.approx(np.mean(values)), name


@pytest.mark.parametrize("stretch", [True, False])
def test_agreement_is_the_iou_of_both_masks_cut_at_a_half(ecssd, stretch):
    pairs, others = find_pairs(get_data_set("ecssd"), ecssd), ecssd / "others"
    others.mkdir()
    for number, pair in enumerate(pairs):
        shown = (np.roll(read(pair.mask), 10, 0) // 2 + 40) if number else np.zeros_like(read(pair.mask))
        Image.fromarray(shown).save(others / f"{pair.name}.png")
    (others / f"{pairs[1].name}.png").unlink()
    Image.fromarray(np.zeros_like(read(pairs[0].mask))).save(ecssd / "theirs" / f"{pairs[0].name}.png")
    kept, models = Store(ecssd / "scores.sqlite"), {name: masks_of(ecssd / name) for name in ("theirs", "others")}
    scored = score_all(models, {"ecssd": pairs}, kept, workers=1)
    other = scored["others", "ecssd"]
    found = summarise("theirs", scored["theirs", "ecssd"], kept, stretch, other).agreement

    def cut(name, pair):
        mask = read(ecssd / name / f"{pair.name}.png") / 255
        low, high = (mask.min(), mask.max()) if stretch and mask.any() else (0, 1)
        return (mask - low) / (high - low) > 0.5

    ious = [1.0]  # both are empty
    for pair in pairs[2:]:
        one, two = cut("theirs", pair), cut("others", pair)
        ious.append((one & two).sum() / max(1, (one | two).sum()) if (one | two).any() else 1)
    expected = {"agree": np.median(ious), "agree_p5": np.percentile(ious, 5), "agree_min": min(ious)}
    assert found == pytest.approx(expected) and 0 <= found["agree_min"] < 1
    itself = summarise("others", other, kept, stretch, other).agreement
    assert set(itself.values()) == {1.0}
    theirs = {("theirs", "ecssd"): scored["theirs", "ecssd"]}
    write_images(ecssd / "images.csv", theirs, kept, [stretch], {"ecssd": other})
    rows = list(csv.DictReader((ecssd / "images.csv").open()))
    assert [float(row["agree"]) for row in rows if row["agree"]] == pytest.approx(ious) and rows[1]["agree"] == ""


def test_bad_predictions_are_named_and_left_out_of_the_averages(ecssd):
    theirs, pairs = ecssd / "theirs", find_pairs(get_data_set("ecssd"), ecssd)
    names = [pair.name for pair in pairs]
    (theirs / f"{names[0]}.png").unlink()
    Image.fromarray(read(theirs / f"{names[1]}.png")[:-3]).save(theirs / f"{names[1]}.png")
    content = (theirs / f"{names[2]}.png").read_bytes()
    (theirs / f"{names[2]}.png").write_bytes(content[: len(content) // 2])
    Image.fromarray(np.zeros_like(read(pairs[3].mask))).save(pairs[3].mask)
    Image.fromarray(np.full(read(pairs[4].mask).shape, np.nan, np.float32)).save(theirs / f"{names[4]}.tif")
    (theirs / f"{names[4]}.png").unlink()
    opaque = np.dstack([read(theirs / f"{names[5]}.png")] * 3)
    Image.fromarray(np.dstack([opaque, opaque[..., 0]])).save(theirs / f"{names[5]}.png")
    (theirs / f"{names[6]}.png").unlink()
    (theirs / f"{names[6]}.png").symlink_to("nowhere.png")

    kept = Store(ecssd / "scores.sqlite")
    scored = score_all({"theirs": masks_of(theirs)}, {"ecssd": pairs}, kept, workers=1)
    result = summarise("theirs", scored["theirs", "ecssd"], kept, True)
    assert list(result.left_out) == names[:3] + names[4:7] and result.negatives == 1
    reasons = list(result.left_out.values())
    height, width = read(pairs[1].mask).shape
    assert reasons[0] == "no prediction"
    assert reasons[1] == f"the prediction is {width}x{height - 3}, its truth {width}x{height}; resize it"
    assert "cannot be read" in reasons[2]
    assert "floating-point pixels" in reasons[3]
    assert "a picture with transparency, not a mask" in reasons[4]
    assert reasons[5] == "no prediction"
    good = [(read(theirs / f"{pair.name}.png"), read(pair.mask)) for pair in pairs[7:]]
    expected = by_pysodmetrics(good)
    assert result.images == 3
    assert {name: result.scores[name] for name in expected} == pytest.approx(expected, abs=1e-6)

    write_images(ecssd / "images.csv", scored, kept, [True])
    with (ecssd / "images.csv").open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert len(rows) == 10
    assert rows[names[0]]["note"] == "no prediction" and rows[names[0]]["IoU"] == ""
    note = "all-black truth, where a subject is seen: not in the averages"
    assert rows[names[3]]["note"] == note and rows[names[3]]["S"]
    assert [float(rows[name]["IoU"]) for name in names[7:]] == pytest.approx(list(result.image_ious))


def test_images_without_a_subject_measure_false_alarms(ecssd):
    pairs = find_pairs(get_data_set("ecssd"), ecssd)
    for pair in pairs[:4]:
        Image.fromarray(np.zeros_like(read(pair.mask))).save(pair.mask)
        level = 90 if pair is pairs[0] else 60  # of 255: a subject from .3 on
        Image.fromarray(np.full_like(read(pair.mask), level)).save(ecssd / "theirs" / f"{pair.name}.png")
    results = []
    for some in (pairs, pairs[:4], pairs[4:]):
        kept = Store(ecssd / "scores.sqlite")
        scored = score_all({"theirs": masks_of(ecssd / "theirs")}, {"ecssd": some}, kept, workers=1)
        results.append(summarise("theirs", scored["theirs", "ecssd"], kept, True))
    whole, black, rest = results
    assert whole.alarms == black.alarms == {"alarms": 0.25} and rest.alarms == {}
    assert whole.scores == rest.scores and black.scores == {} and not whole.left_out
    facts = {"theirs": ModelFacts()}
    assert "| 6/10 |" in as_markdown(facts, [whole]) and "| alarms |" in as_markdown(facts, [whole])
    assert "alarms" not in as_markdown(facts, [rest]) and "| .250 |" in as_markdown(facts, [black])
    write_page(ecssd / "page.html", "title", facts, [whole, black], [])
    assert ".250" in (ecssd / "page.html").read_text()


def test_a_folder_without_any_usable_prediction_is_refused(ecssd):
    (ecssd / "none").mkdir()
    pairs = {"ecssd": find_pairs(get_data_set("ecssd"), ecssd)}
    with pytest.raises(UserError, match=r"none has no usable prediction on ECSSD: 0000: no prediction \(looked in"):
        score_all({"none": masks_of(ecssd / "none")}, pairs, Store(ecssd / "scores.sqlite"), workers=1)


class Painter(Runner):
    """A net that finds what is darker than its photo's middle, fails on chosen calls, and counts."""

    runtime = "torch"

    def __init__(self, nan_at=(), stop_at: int | None = None):
        super().__init__((48, 48))
        self.calls, self.nan_at, self.stop_at = 0, nan_at, stop_at

    def fingerprint(self) -> str:
        return "painter"

    def probability(self, image_HW3):
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        gray = image_HW3.mean(2) / 255
        self.calls += 1
        return np.full_like(gray, np.nan) if self.calls - 1 in self.nan_at else 1 - gray


def painted(painter: Painter, kept: Store, pairs) -> Result:
    scored = score_all({"p": Model(ModelFacts(), painter)}, {"ecssd": pairs}, kept, workers=1)
    return summarise("p", scored["p", "ecssd"], kept, True)


def test_nan_and_unreadable_photos_are_left_out(ecssd):
    pairs = find_pairs(get_data_set("ecssd"), ecssd)
    content = pairs[1].image.read_bytes()
    pairs[1].image.write_bytes(content[: len(content) // 2])
    kept = Store(ecssd / "scores.sqlite")
    result = painted(Painter(nan_at=[2]), kept, pairs)
    assert result.images == 8
    assert list(result.left_out) == ["0001", "0003"]
    assert "cannot be read" in result.left_out["0001"] and "NaN" in result.left_out["0003"]


class Exchanging(Painter):
    """One that finds another truth in place of the third when it has made the first mask."""

    def __init__(self, pairs):
        super().__init__()
        self.pairs = pairs

    def probability(self, image_HW3):
        if not self.calls:
            shutil.copy(self.pairs[5].mask, self.pairs[3].mask)
        return super().probability(image_HW3)


def test_scores_of_a_file_that_was_exchanged_meanwhile_are_not_kept_as_those_of_the_old_one(ecssd):
    pairs = find_pairs(get_data_set("ecssd"), ecssd)
    first = pairs[3].mask.read_bytes()
    kept = Store(ecssd / "scores.sqlite")
    result = painted(Exchanging(pairs), kept, pairs)
    assert list(result.left_out) == [pairs[3].name] and "has changed" in result.left_out[pairs[3].name]
    pairs[3].mask.write_bytes(first)
    again = painted(Painter(), kept, pairs)
    assert again.scores == painted(Painter(), Store(ecssd / "fresh.sqlite"), pairs).scores


def test_a_photo_that_is_gone_before_it_is_scored_is_named(ecssd):
    pairs = find_pairs(get_data_set("ecssd"), ecssd)
    pairs[2].image.unlink()
    with pytest.raises(UserError, match=rf"{pairs[2].image.name}: no such file"):
        painted(Painter(), Store(ecssd / "scores.sqlite"), pairs)


def test_a_disk_that_fills_while_scores_are_kept_is_a_sentence(ecssd):
    pairs = find_pairs(get_data_set("ecssd"), ecssd)
    kept = Store(ecssd / "scores.sqlite")
    [pages] = kept.connection.execute("PRAGMA page_count").fetchone()
    kept.connection.execute(f"PRAGMA max_page_count = {pages + 3}")
    with pytest.raises(UserError, match=r"No more scores can be kept in .*scores.sqlite .*full.* store=FILE"):
        painted(Painter(), kept, pairs)
    kept.connection.execute("PRAGMA max_page_count = 100000")
    assert painted(Painter(), kept, pairs).images == len(pairs)


def test_an_interrupted_evaluation_goes_on_where_it_stood(ecssd, monkeypatch):
    pairs = find_pairs(get_data_set("ecssd"), ecssd)
    whole = painted(Painter(), Store(ecssd / "whole.sqlite"), pairs)
    with pytest.raises(KeyboardInterrupt):
        painted(Painter(stop_at=8), Store(ecssd / "scores.sqlite"), pairs)
    kept = Store(ecssd / "scores.sqlite")
    second = Painter()
    result = painted(second, kept, pairs)
    assert 2 <= second.calls < 10, "what was finished is not computed again"
    assert result.scores == whole.scores
    assert all(np.array_equal(result.curves[name], whole.curves[name]) for name in whole.curves)
    third = Painter()
    painted(third, kept, pairs)
    assert third.calls == 0
    # Other truth, other photo, other code: computed again.
    Image.fromarray(255 - read(pairs[0].mask)).save(pairs[0].mask)
    painted(third, kept, pairs)
    assert third.calls == 1
    monkeypatch.setattr(store, "code_digest", lambda: b"changed")
    painted(third, Store(ecssd / "scores.sqlite"), pairs)
    assert third.calls == 11


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("runtime/runner.py", True),
        ("evaluation/scoring.py", True),
        ("images/decoders.py", True),
        ("models/u2net.py", True),
        ("report/page.py", False),
        ("training/losses.py", False),
    ],
)
def test_what_is_kept_depends_on_the_code_that_makes_numbers(tmp_path, file, changes):
    source = tmp_path / "u2slim"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__", "*.onnx"))
    before = store.code_digest(source)
    assert before == store.code_digest()
    with (source / file).open("a") as text:
        text.write("X = 1\n")
    assert (store.code_digest(source) != before) is changes


# What they import that makes no numbers, or whose work is in the key of what is kept.
OTHERS = {"errors.py", "files.py", "legacy.py", "processes.py", "evaluation/entries.py", "evaluation/store.py"}
OTHERS |= {"data/data_set.py", "data/pairs.py", "remote.py"}


def test_what_makes_numbers_imports_nothing_else_that_does():
    makers = {file.relative_to(PACKAGE).as_posix() for file in store.number_makers()}
    assert makers >= {"sizes.py", "images/read.py", "runtime/onnx_runners.py", "evaluation/boundary.py"}
    imported = set()
    for file in makers:
        text = (PACKAGE / file).read_text()
        imported |= set(re.findall(r"^\s*(?:from|import) u2slim\.([\w.]+)", text, re.MULTILINE))
    paths = [name.replace(".", "/") for name in imported]
    files = {f"{path}/__init__.py" if (PACKAGE / path).is_dir() else f"{path}.py" for path in paths}
    assert files - makers <= OTHERS


def test_a_damaged_store_is_refused_in_words(tmp_path):
    (tmp_path / "scores.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="Delete that file if it is damaged"):
        Store(tmp_path / "scores.sqlite")


def test_work_in_flight_is_bounded_and_stays_in_order():
    pulled = []

    def items():
        for number in range(50):
            pulled.append(number)
            yield number, (number,)

    with run.ThreadPoolExecutor(3) as pool:
        for position, (label, square) in enumerate(run._ahead(pool, lambda n: n * n, items(), limit=5)):
            assert (label, square) == (position, position**2)
            assert len(pulled) - position <= 6


def test_digests_tell_contents_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"bc")
    assert store.digest("a", "bc") == store.digest("a", tmp_path / "a")
    assert len({store.digest("a", "bc"), store.digest("ab", "c"), store.digest("abc"), store.digest("bc", "a")}) == 4


@pytest.mark.parametrize(("conv", "gmac"), [(StandardConv, 19.8), (GroupedConv, 10.0), (DepthwiseSeparableConv, 2.7)])
def test_gmac_of_the_lite_nets(conv, gmac):
    assert net_gmac(random_net(conv=conv), 320) == pytest.approx(gmac, abs=0.06)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A net, and the file it was exported to."""
    net, path = random_net(conv=DepthwiseSeparableConv), tmp_path_factory.mktemp("exported") / "a.onnx"
    write_onnx(net, 64, path)
    return net, path


def test_facts_of_nets_and_files(exported, tmp_path, published):
    net, path = exported
    (tmp_path / "folder").mkdir()
    models = open_models([str(path), str(published), str(tmp_path / "folder")])
    assert list(models) == ["a", "u2netp", "folder"]
    in_memory = net_model(net, 64).facts
    assert models["a"].facts.gmac == pytest.approx(in_memory.gmac, rel=REWRITTEN)
    # BatchNorm is folded into the file's convolutions.
    assert 0.9 * in_memory.params < models["a"].facts.params <= in_memory.params
    assert models["a"].facts.megabytes == path.stat().st_size / 1e6
    assert models["u2netp"].facts.params == 1_131_181
    assert models["u2netp"].facts.megabytes == published.stat().st_size / 1e6
    assert (models["a"].facts.runtime, models["u2netp"].facts.runtime) == ("opencv", "torch")
    timed = with_latencies(models, 1)
    assert timed["a"].facts.milliseconds > 0 and timed["folder"].facts.milliseconds is None
    assert with_latencies(models, 0)["a"].facts.milliseconds is None


class OneImage(CalibrationDataReader):
    def __init__(self, whole):
        self.blobs = iter(input_blobs(whole, [render(1, 1)[0]]))

    def get_next(self):
        return next(self.blobs, None)


def store_in_int8(whole, small) -> None:
    quantize_static(whole, small, OneImage(whole), op_types_to_quantize=["Conv"])


def store_in_dynamic_int8(whole, small) -> None:
    quantize_dynamic(whole, small)


@pytest.mark.parametrize("convert", [store_in_half, store_packed, store_in_int8, store_in_dynamic_int8])
def test_files_of_every_precision_have_the_multiplications_of_their_net(exported, tmp_path, convert):
    net, path = exported
    convert(path, tmp_path / "small.onnx")
    assert onnx_facts(tmp_path / "small.onnx").gmac == pytest.approx(net_gmac(net, 64), rel=REWRITTEN)


def test_a_file_of_open_size_has_the_multiplications_of_the_size_it_runs_at(exported, tmp_path):
    net, path = exported
    model = onnx.load(path)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"
    onnx.save(model, tmp_path / "open.onnx")
    [opened] = open_models(str(tmp_path / "open.onnx"), "onnxruntime").values()
    assert opened.facts.gmac == pytest.approx(net_gmac(net, 64), rel=REWRITTEN)


def test_multiplications_are_not_told_where_some_are_no_convolutions(tmp_path):
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ConvTranspose2d(2, 1, 3))
    torch.onnx.export(layer, (torch.zeros(1, 3, 8, 8),), str(tmp_path / "a.onnx"), dynamo=False)
    assert onnx_facts(tmp_path / "a.onnx").gmac is None


def test_a_net_runs_in_every_runtime(exported):
    (net, path), photo = exported, render(1, 1)[0]
    expected = net_runner(net, 64).small_mask(photo)
    made = [onnx_runner(path, runtime) for runtime in ("opencv", "onnxruntime", "openvino")]
    for runner in (*made, net_runner(net, 64, "onnxruntime")):
        np.testing.assert_allclose(runner.small_mask(photo), expected, atol=1e-4)
    assert [runner.runtime for runner in made] == ["opencv", "onnxruntime", "openvino"]
    assert len({runner.fingerprint() for runner in made}) == 3
    with pytest.raises(UserError, match="runtime=torch cannot run"):
        onnx_runner(path, "torch")


def test_models_are_named_as_short_as_tells_them_apart(tmp_path):
    for name in ("x/masks", "y/masks", "z"):
        (tmp_path / name).mkdir(parents=True)
    names = list(open_models([str(tmp_path / name) for name in ("x/masks", "y/masks", "z")]))
    assert names == ["x/masks", "y/masks", "z"]
    assert list(open_models({"ours": str(tmp_path / "z")})) == ["ours"]
    with pytest.raises(UserError, match="names .*z twice"):
        open_models([str(tmp_path / "z"), str(tmp_path / "z")])
    with pytest.raises(UserError, match="No net at nowhere.onnx"):
        open_models("nowhere.onnx")
    for nothing in ([], "", [" "], {}):
        with pytest.raises(UserError, match="names nothing"):
            open_models(nothing)


def test_masks_are_found_by_set_then_in_masks_then_in_the_folder_itself(tmp_path):
    model = masks_of(tmp_path)
    for home in (".", "masks", "ecssd"):
        (tmp_path / home).mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / home / "a.png")
        assert model.mask_files(get_data_set("ecssd"))["a"].parent == (tmp_path / home)
    assert model.mask_files(get_data_set("duts_te"))["a"].parent == tmp_path / "masks"
    Image.new("L", (4, 4)).save(tmp_path / "ecssd/a.jpg")
    with pytest.raises(UserError, match="holds a.jpg and a.png; leave only the masks there"):
        model.mask_files(get_data_set("ecssd"))


def test_images_that_no_measure_is_defined_for_are_named(tmp_path):
    Image.new("L", (90, 1), 255).save(tmp_path / "a.png")
    assert score_image(tmp_path / "a.png", tmp_path / "a.png") == "too small to score: 90x1"


def results() -> tuple[dict[str, ModelFacts], list[Result]]:
    facts = {"a_b|c": ModelFacts(1_131_181, 4.54, 19.756, 12.4, "torch"), "theirs": ModelFacts(runtime="masks")}
    curves = {}
    rows = []
    for index, (model, data) in enumerate([("a_b|c", "ECSSD"), ("theirs", "ECSSD"), ("a_b|c", "DUTS-TE")]):
        scores = {name: (index + number) / 20 for number, name in enumerate(SCORES)}
        left_out = {"0001": "no prediction"} if model == "theirs" else {}
        rows.append(Result(model, data, True, scores, curves, 10 - len(left_out), left_out))
    return facts, rows


def test_tables_say_the_same_in_every_form():
    facts, rows = results()
    as_rows = list(csv.DictReader(as_csv(facts, rows).splitlines()))
    assert [float(row["maxF"]) for row in as_rows] == [row.scores["maxF"] for row in rows]
    assert as_rows[1]["left_out"] == "1" and as_rows[1]["params"] == "" and as_rows[0]["params"] == "1131181"
    loaded = json.loads(as_json(facts, rows))
    assert loaded["results"][1]["left_out"] == {"0001": "no prediction"}
    assert loaded["results"][2]["bIoU"] == rows[2].scores["bIoU"]
    assert loaded["models"]["a_b|c"]["gmac"] == 19.756
    markdown = as_markdown(facts, rows).splitlines()
    columns = [cell.strip() for cell in markdown[0].strip("|").split("|")]
    first = [cell.strip() for cell in markdown[2].replace("\\|", "/").strip("|").split("|")]
    shown = dict(zip(columns, first, strict=True))
    assert shown["model"] == "a_b/c" and shown["MAE"] == "**.000**" and shown["maxF"] == ".050"
    assert [shown[name] for name in ("M params", "MB", "GMAC", "ms", "runtime")] == [
        "1.13",
        "4.5",
        "19.76",
        "12",
        "torch",
    ]
    assert "9/10" in markdown[3] and "**.100**" in markdown[3]
    latex = as_latex(facts, rows)
    assert r"a\_b|c & yes & 10 & \textbf{.000} & .050" in latex
    assert latex.count(r"\midrule") == 2 and r"\emph{DUTS-TE}" in latex
    widths = {line.count("&") for line in latex.splitlines() if "&" in line}
    assert widths == {len(columns) - 2}, "every row has every column"


def test_tables_show_agreement_where_it_was_asked_for():
    facts, rows = results()
    assert "agree" not in as_csv(facts, rows) + as_markdown(facts, rows) + as_latex(facts, rows) + as_json(facts, rows)
    agreed = {"agree": 0.9, "agree_p5": 0.5, "agree_min": 0.125}
    rows[0] = replace(rows[0], agreement=agreed)
    first, second, _ = csv.DictReader(as_csv(facts, rows).splitlines())
    assert {name: float(first[name]) for name in agreed} == agreed and second["agree_min"] == ""
    assert json.loads(as_json(facts, rows))["results"][0]["agree_min"] == 0.125
    table = as_markdown(facts, rows).splitlines()
    assert "| **.900** | **.500** | **.125** |" in table[2] and "| - | - | - |" in table[3]
    assert r"agree\_p5" in as_latex(facts, rows)


def test_the_worst_and_the_median_images_are_shown(ecssd):
    pairs = find_pairs(get_data_set("ecssd"), ecssd)
    models = {"theirs": masks_of(ecssd / "theirs"), "p": Model(ModelFacts(), Painter())}
    kept = Store(ecssd / "scores.sqlite")
    scored = score_all(models, {"ecssd": pairs}, kept, workers=1)
    pictures = worst_and_median(models, {"ecssd": pairs}, scored, kept, count=2)
    ious = np.mean([summarise(name, scored[name, "ecssd"], kept, True).image_ious for name in models], 0)
    order = [pairs[index].name for index in np.argsort(ious)]
    assert [p.name for p in pictures if p.kind == "worst"] == order[:2]
    assert [p.name for p in pictures if p.kind == "median"] == order[4:6]
    one = pictures[0]
    raw = read(ecssd / "theirs" / f"{one.name}.png")
    low, high = int(raw.min()), int(raw.max())
    np.testing.assert_array_equal(one.masks["theirs"], np.rint((raw - low) / (high - low) * 255))
    assert one.masks["p"].shape == one.truth.shape == one.photo.shape[:2]
    theirs = summarise("theirs", scored["theirs", "ecssd"], kept, True).image_ious
    assert one.ious["theirs"] == theirs[[pair.name for pair in pairs].index(one.name)]


def test_fingerprints_tell_nets_sizes_and_normalisations_apart():
    net = random_net()
    same, other = net_runner(net, 64), net_runner(random_net(conv=GroupedConv), 64)
    assert same.fingerprint() == net_runner(random_net(), 64).fingerprint()
    larger, another = net_runner(net, 96), random_net()
    another.preprocess = Preprocess(own_maximum=False)
    with torch.no_grad():
        changed = random_net()
        changed.fuse.bias.add_(1e-3)
    assert len({s.fingerprint() for s in (same, other, larger, net_runner(changed, 64), net_runner(another, 64))}) == 5


def test_refined_masks_are_scored_as_refined(tmp_path):
    image, truth = render(1, 1)
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.fromarray(image).save(photo)
    Image.fromarray(truth).save(mask)
    rough = cv2.resize(truth / np.float32(255), (16, 16), interpolation=cv2.INTER_AREA)
    plain, refined = score_image(rough, mask), score_image(rough, mask, refine=GuidedFilter(), photo=photo)
    outline = IMAGE_SCORES.index("bIoU")
    assert refined[True].values[outline] > plain[True].values[outline] + 0.02
    expected = score(to_8bit(GuidedFilter()(image, enlarge(rough, truth.shape))), truth, False)
    np.testing.assert_allclose(refined[False].values, expected.values)
    runner = net_runner(random_net(), 64)
    made_by = {Model(ModelFacts(), runner, refine=r).fingerprint() for r in (None, GuidedFilter(), GuidedFilter(0.02))}
    assert len(made_by) == 3
