"""What is wrong with the data: python -m u2slim.data.doctor root=DIR (all settings: --help).

Every file of every set is opened. A table, and one of the classes of semantic sets, goes to the terminal; doctor.md,
doctor.json (every finding by name) and doctor.png (a contact sheet of the offenders) go into the run's folder. Nothing
is changed.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from omegaconf import DictConfig

from u2slim.cli import check_whole_number, output_dir, plain, research_command, write_json
from u2slim.data.catalog import get_data_set, published_names
from u2slim.data.check import BAD_LABELS, GREY, Record, examine_all
from u2slim.data.class_tables import absent, class_facts, class_rows
from u2slim.data.contact_sheet import write_sheet
from u2slim.data.data_set import DataSet
from u2slim.data.duplicates import DuplicateIndex
from u2slim.data.own_sets import own_sets
from u2slim.data.pairs import Pair, Problem, expected_places, known_shards, list_pairs
from u2slim.errors import UserError
from u2slim.files import write_whole
from u2slim.images.read import read_mask
from u2slim.terminal import print_rows, rows_as_markdown

log = logging.getLogger(__name__)

# Column -> the kinds of findings that it counts.
MASK_COLUMNS = {
    "unpaired": ("no mask", "no image", "doubled name"),
    "unreadable": ("unreadable",),
    "sizes": ("other size", "other turn", "too small"),
    "empty": ("empty mask",),
    "full": ("full mask",),
    "noisy": ("noisy mask",),
    "0/1": ("mask not 0 to 255",),
    "RGB": ("RGB mask",),
    "palette": ("palette mask",),
    "gray image": ("gray image",),
    "repeats": ("identical", "near"),
}
# The same for sets of classes.
LABEL_COLUMNS = {
    "unpaired": MASK_COLUMNS["unpaired"],
    "unreadable": MASK_COLUMNS["unreadable"],
    "sizes": MASK_COLUMNS["sizes"],
    "bad labels": (BAD_LABELS,),
    "no class": ("no class",),
    "absent classes": ("absent class",),
    "repeats": ("identical",),
}


@dataclass
class SetReport:
    """What the doctor found in one set."""

    data_set: DataSet
    found: int
    usable: list[tuple[Pair, Record]]
    findings: list[Problem] = field(default_factory=list)

    @property
    def labelled(self) -> list[tuple[Pair, Record]]:
        """The usable pairs of a set whose masks are published."""
        return [] if self.data_set.withheld else self.usable

    def count(self, *kinds: str) -> int:
        return sum(finding.kind in kinds for finding in self.findings)


@research_command("doctor")
def main(cfg: DictConfig) -> None:
    check_whole_number(cfg, "examples", 1)
    sets, own = plain(cfg)["sets"], plain(cfg)["own"]
    if own["images"]:
        if isinstance(sets, str | list):
            raise UserError("Give own.images or names of sets, not both.")
        sets = {**(sets or {}), "own": own}
    reports, across = diagnose(cfg.root, sets, plain(cfg.shards))
    folder = output_dir()
    tables = [cells for cells in (rows(reports), label_rows(reports)) if len(cells) > 1]
    tables += class_rows({r.data_set: r.labelled for r in reports.values() if r.data_set.labels})
    for cells in tables:
        print_rows(cells)
    sentences = as_sentences(across)
    for sentence in sentences:
        log.info("%s", sentence)

    findings = [finding for report in reports.values() for finding in report.findings] + across
    write_json(folder / "doctor.json", as_json(reports, across))
    text = "\n".join(as_markdown(cells, sentences if cells is tables[-1] else ()) for cells in tables)
    write_whole(folder / "doctor.md", lambda partial: partial.write_text(text, encoding="utf-8"))
    made = ["doctor.md", "doctor.json"]
    if shown := [finding for finding in findings if finding.pairs]:
        write_sheet(folder / "doctor.png", shown, cfg.examples)
        made.append("doctor.png")
    counts = (f"{n} {what}{'' if n == 1 else 's'}" for n, what in ((len(findings), "finding"), (len(reports), "set")))
    log.info("%s: %s in %s", " in ".join(counts), ", ".join(made), folder)


def diagnose(
    root: str, sets: str | Sequence[str] | Mapping[str, Mapping] | None = None, shards: Mapping[str, str] | None = None
) -> tuple[dict[str, SetReport], list[Problem]]:
    """A report for each set that is there, and the pictures that stand in two sets.

    Args:
        root: the folder of the data sets.
        sets: a name or names of published sets, all of which must be there; or one's own, as `own_sets` reads them.
        shards: for sets that lie in tar shards elsewhere, their paths, addresses or globs.

    Raises:
        UserError: no set is there, or one that was asked for is not.
    """
    shards, reports = known_shards(shards), {}
    own = own_sets(sets, "sets") if isinstance(sets, Mapping) else {}
    for name in [sets] if isinstance(sets, str) else sets or published_names():
        data_set = get_data_set(name, own)
        listing = list_pairs(data_set, root, shards.get(data_set.name))
        if listing is None:
            if sets:
                raise UserError(f"{data_set.title} is not there. Expected {expected_places(data_set, root)}.")
            continue
        seen = list(zip(listing.pairs, examine_all(listing.pairs, data_set.title), strict=True))
        report = SetReport(data_set, len(seen), [(pair, record) for pair, record in seen if not record.kind])
        reports[data_set.name] = report
        report.findings += [*listing.problems, *listing.extra]
        report.findings += [finding for pair, record in seen for finding in _findings(pair, record)]
        if data_set.labels:
            report.findings += absent(data_set, report.labelled)
    if not reports:
        example = expected_places(get_data_set("duts_tr"), root)
        raise UserError(f"No data set is under root={root}. Expected, among others, {example}.")
    across = []
    for finding in _repeats([pair for report in reports.values() for pair in report.usable]):
        first, second = finding.pairs
        (reports[first.set].findings if first.set == second.set else across).append(finding)
    return reports, across


def _findings(pair: Pair, record: Record) -> Iterator[Problem]:
    say = partial(Problem, pair.set, pair.name, pairs=(pair,))
    if record.kind:
        yield say(record.kind, record.problem)
        return
    if pair.data_set.labels:
        if pair.mask and not any(record.classes[:-1]):
            yield say("no class", f"no pixel of {pair.mask} has a class")
        return
    if record.top == 0:
        yield say("empty mask", f"{pair.mask} marks nothing")
    elif record.foreground == 1:
        yield say("full mask", f"{pair.mask} marks everything")
    if record.grey > GREY:
        yield say("noisy mask", f"{record.grey:.0%} of {pair.mask} is neither 0 nor {record.top}")
    if record.top not in (0, 255):
        yield say("mask not 0 to 255", f"{pair.mask} goes from 0 to {record.top} and is stretched")
    if record.mask_mode.startswith("RGB"):
        yield say("RGB mask", f"{pair.mask} is stored as {record.mask_mode}")
    if record.mask_mode.startswith("P"):
        yield say("palette mask", f"{pair.mask} is stored with a palette")
    if record.gray:
        yield say("gray image", f"{pair.image} has no colour (stored as {record.colours})")


def _repeats(usable: Sequence[tuple[Pair, Record]]) -> Iterator[Problem]:
    """Each picture that was there before, in its own set or another, with the first of its kind there."""
    yield from _copies([(pair, record) for pair, record in usable if pair.data_set.labels])
    usable = [(pair, record) for pair, record in usable if not pair.data_set.labels]
    duplicates = DuplicateIndex([record for _, record in usable])
    for index, (pair, record) in enumerate(usable):
        firsts: dict[str, int] = {}
        for other in duplicates.find(record, index):
            firsts.setdefault(usable[other][0].set, other)
        for other in firsts.values():
            first, same = usable[other]
            kind = "identical" if record.image_hash == same.image_hash else "near"
            text = f"{kind}: {first.set}/{first.name} and {pair.set}/{pair.name}, {_agreement(first, pair)}"
            yield Problem(first.set, first.name, kind, text, (first, pair))


def _copies(usable: Sequence[tuple[Pair, Record]]) -> Iterator[Problem]:
    """The same for sets of classes, whose images are often frames of a video: only those of the same bytes."""
    seen: dict[str, dict[str, Pair]] = {}
    for pair, record in usable:
        firsts = seen.setdefault(record.image_hash, {})
        for first in firsts.values():
            text = f"identical: {first.set}/{first.name} and {pair.set}/{pair.name}"
            yield Problem(first.set, first.name, "identical", text, (first, pair))
        firsts.setdefault(pair.set, pair)


def _agreement(first: Pair, second: Pair) -> str:
    masks = [read_mask(pair.mask) > 127 for pair in (first, second)]
    if masks[0].shape != masks[1].shape:
        return "of another size"
    either = np.count_nonzero(masks[0] | masks[1])
    return f"mask IoU {np.count_nonzero(masks[0] & masks[1]) / either if either else 1:.2f}"


def rows(reports: Mapping[str, SetReport]) -> list[list[str]]:
    """The table of sets of masks, its head first."""
    cells = [["set", "found", "published", "soft masks", "foreground", *MASK_COLUMNS]]
    for report in reports.values():
        if report.data_set.labels:
            continue
        records = [record for _, record in report.usable]
        soft = sum(record.levels > 2 for record in records) / max(1, len(records))
        foreground = float(np.mean([record.foreground for record in records])) if records else 0.0
        cells.append([*_head(report), f"{soft:.0%}", f"{foreground:.3f}", *_counts(report, MASK_COLUMNS)])
    return cells


def label_rows(reports: Mapping[str, SetReport]) -> list[list[str]]:
    """The table of sets of classes, its head first."""
    cells = [["set", "found", "published", *LABEL_COLUMNS]]
    labelled = (report for report in reports.values() if report.data_set.labels)
    cells += [[*_head(report), *_counts(report, LABEL_COLUMNS)] for report in labelled]
    return cells


def _head(report: SetReport) -> list[str]:
    published = report.data_set.count
    return [report.data_set.title, f"{report.found:,}", f"{published:,}" if published else ""]


def _counts(report: SetReport, columns: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{count:,}" if (count := report.count(*kinds)) else "-" for kinds in columns.values()]


def as_sentences(across: Sequence[Problem]) -> list[str]:
    """Which sets share how many pictures."""
    shared: dict[tuple[str, ...], list[str]] = {}
    for finding in across:
        titles = (pair.data_set.title for pair in finding.pairs)
        shared.setdefault((finding.kind, *titles), []).append(finding.text.partition(": ")[2])
    return [
        f"{first} and {second}: {len(texts):,} {kind} picture{'s' * (len(texts) > 1)}, e.g. {texts[0]}"
        for (kind, first, second), texts in shared.items()
    ]


def as_markdown(cells: Sequence[Sequence[str]], sentences: Sequence[str]) -> str:
    return "\n".join([rows_as_markdown(cells), *(f"- {sentence}" for sentence in sentences)])


def _deciles(values: Sequence[float]) -> list[float]:
    return np.quantile(values, np.linspace(0, 1, 11)).round(4).tolist() if values else []


def as_json(reports: Mapping[str, SetReport], across: Sequence[Problem]) -> dict:
    def listed(findings: Sequence[Problem]) -> list[dict]:
        kept = []
        for finding in findings:
            kept.append({"set": finding.set, "name": finding.name, "kind": finding.kind, "text": finding.text})
            if len(finding.pairs) > 1:
                kept[-1]["with"] = f"{finding.pairs[1].set}/{finding.pairs[1].name}"
        return kept

    return {
        "sets": {
            name: {
                "found": report.found,
                "published": report.data_set.count,
                "usable": len(report.usable),
                "kinds": dict(Counter(finding.kind for finding in report.findings)),
                "mask_modes": dict(Counter(record.mask_mode for _, record in report.usable)),
                "soft_masks": sum(record.levels > 2 for _, record in report.usable),
                "foreground_deciles": _deciles([record.foreground for _, record in report.usable]),
                "findings": listed(report.findings),
            }
            | ({"classes": class_facts(report.data_set, report.labelled)} if report.data_set.labels else {})
            for name, report in reports.items()
        },
        "across": listed(across),
    }


if __name__ == "__main__":
    main()
