"""The doctor finds what was planted, and says it in every form."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.conftest import run, write_set
from u2slim.data.contact_sheet import write_sheet
from u2slim.data.doctor import as_json, as_markdown, as_sentences, diagnose, rows
from u2slim.data.sample import render
from u2slim.errors import UserError


@pytest.fixture
def sick(tmp_path):
    """DUTS-TR and DUTS-TE with one offender of each kind among good pairs."""
    root = tmp_path / "data"
    write_set(root / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 12)
    write_set(root / "DUTS-TE", "DUTS-TE-Image", "DUTS-TE-Mask", 3, first=30)
    images, masks = root / "DUTS-TR/DUTS-TR-Image", root / "DUTS-TR/DUTS-TR-Mask"
    mask = np.asarray(Image.open(masks / "0000.png"))
    rng = np.random.default_rng(0)
    noise = np.where(mask > 127, 255 - rng.integers(0, 12, mask.shape), rng.integers(0, 12, mask.shape))
    Image.fromarray(noise.astype(np.uint8)).save(masks / "0000.png")
    Image.fromarray(np.zeros_like(np.asarray(Image.open(masks / "0001.png")))).save(masks / "0001.png")
    Image.fromarray(np.full_like(np.asarray(Image.open(masks / "0002.png")), 255)).save(masks / "0002.png")
    Image.fromarray((np.asarray(Image.open(masks / "0003.png")) > 127).astype(np.uint8)).save(masks / "0003.png")
    Image.open(masks / "0004.png").convert("RGB").save(masks / "0004.png")
    Image.open(masks / "0005.png").convert("P").save(masks / "0005.png")
    Image.open(images / "0006.jpg").convert("L").save(images / "0006.jpg")
    (images / "0007.jpg").write_bytes((images / "0007.jpg").read_bytes()[:2000])
    Image.new("L", (9, 9)).save(masks / "0008.png")
    (masks / "0009.png").unlink()
    (images / "0010.jpg").unlink()
    (root / "DUTS-TE/DUTS-TE-Image/copy.jpg").write_bytes((images / "0011.jpg").read_bytes())
    (root / "DUTS-TE/DUTS-TE-Mask/copy.png").write_bytes((masks / "0011.png").read_bytes())
    image, mask = render(7, 31)
    half = Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2))
    half.save(root / "DUTS-TE/DUTS-TE-Image/half.jpg", quality=60)
    Image.fromarray(mask).resize(half.size).save(root / "DUTS-TE/DUTS-TE-Mask/half.png")
    return root


KINDS = {
    "0000": "noisy mask",
    "0001": "empty mask",
    "0002": "full mask",
    "0003": "mask not 0 to 255",
    "0004": "RGB mask",
    "0005": "palette mask",
    "0006": "gray image",
    "0007": "unreadable",
    "0008": "other size",
    "0009": "no mask",
    "0010": "no image",
}


def test_every_planted_fault_is_found_and_nothing_else(sick):
    reports, across = diagnose(str(sick))
    assert {finding.name: finding.kind for finding in reports["duts_tr"].findings} == KINDS
    [near] = reports["duts_te"].findings
    assert (near.kind, {pair.name for pair in near.pairs}) == ("near", {"0031", "half"})
    [copy] = across
    assert copy.text == "identical: duts_tr/0011 and duts_te/copy, mask IoU 1.00"
    assert as_sentences(across) == [
        "DUTS-TR and DUTS-TE: 1 identical picture, e.g. duts_tr/0011 and duts_te/copy, mask IoU 1.00"
    ]
    table = {row[0]: dict(zip(rows(reports)[0], row, strict=True)) for row in rows(reports)}
    expected = {"found": "10", "published": "10,553", "unpaired": "2", "unreadable": "1", "sizes": "1", "noisy": "1"}
    assert expected.items() <= table["DUTS-TR"].items()
    ratios = [np.mean(np.asarray(Image.open(p).convert("L")) > 127) for p in (sick / "DUTS-TE/DUTS-TE-Mask").iterdir()]
    assert float(table["DUTS-TE"]["foreground"]) == pytest.approx(np.mean(ratios), abs=2e-3)
    listed = as_json(reports, across)
    assert [row["name"] for row in listed["sets"]["duts_tr"]["findings"]].count("0007") == 1
    assert listed["across"][0]["with"] == "duts_te/copy"
    assert as_markdown(rows(reports), as_sentences(across)).splitlines()[1].startswith("| --- | ---: |")


def test_the_contact_sheet_shows_each_kind(sick, tmp_path):
    reports, across = diagnose(str(sick))
    findings = [finding for report in reports.values() for finding in report.findings] + across
    write_sheet(tmp_path / "sheet.png", [finding for finding in findings if finding.pairs], 3)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).reshape(-1, 3)
    magenta = (pixels[:, 0] > 200) & (pixels[:, 1] < 100) & (pixels[:, 2] > 200)
    assert magenta.sum() > 3000, "the noise in a mask is marked"


def test_the_door_leaves_a_table_a_list_and_a_sheet(sick, tmp_path):
    printed = run("u2slim.data.doctor", f"root={sick}", "hydra.run.dir=out", cwd=tmp_path)
    assert "13 findings in 2 sets: doctor.md, doctor.json, doctor.png in" in printed
    assert {"doctor.md", "doctor.json", "doctor.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert json.loads((tmp_path / "out/doctor.json").read_text())["sets"]["duts_te"]["found"] == 5


def test_a_set_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"No data set is under root=.*DUTS-TR-Image"):
        diagnose(str(tmp_path))
    with pytest.raises(UserError, match="HKU-IS is not there. Expected"):
        diagnose(str(tmp_path), ["hku_is"])


def test_the_real_samples_hold_what_is_known_of_them(real):
    reports, across = diagnose(str(real), ["duts_te", "ecssd"])
    noisy = {finding.name for finding in reports["duts_te"].findings if finding.kind == "noisy mask"}
    assert "ILSVRC2013_test_00000934" in noisy
    assert [finding.name for finding in reports["ecssd"].findings] == ["0199"]
    assert not across
