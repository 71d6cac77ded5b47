"""What became of the jobs of a sweep: one table, one plot."""

import csv
import io
import json
import logging
import shlex
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from u2slim.errors import UserError
from u2slim.files import write_whole
from u2slim.report.curves import write_report
from u2slim.report.runs import read_runs
from u2slim.terminal import print_whole, rows_as_markdown

log = logging.getLogger(__name__)

JobRow = dict[str, Any]


def report(folder: Path) -> bool:
    """Write sweep.md, sweep.csv, runs.png and runs.html into a sweep's folder and print the table.

    Returns:
        Whether all jobs are finished; those that are not are named at the end.
    """
    rows = read_jobs(folder)
    if not rows:
        return True
    head = list(dict.fromkeys(name for row in rows for name in row if name != "folder"))
    write_whole(folder / "sweep.csv", lambda partial: partial.write_text(as_csv(head, rows)))
    write_whole(folder / "sweep.md", lambda partial: partial.write_text(as_markdown(head, rows)))
    table = as_terminal(head, rows)
    print_whole(table)
    written = ["sweep.md", "sweep.csv", *draw(folder, rows)]
    failed = [row for row in rows if row["status"] != "finished"]
    for row in failed:
        print(f"job {row['job']} ({row['settings']}) failed: {row['reason']}")
    if failed:
        place = shlex.quote(f"hydra.sweep.dir={folder}")
        print(f"To continue with what is not finished: the same command with {place} resume=auto")
    print(f"{len(rows) - len(failed)} of {len(rows)} jobs finished: {', '.join(written)} in {folder}")
    return not failed


def read_jobs(folder: Path) -> list[JobRow]:
    """A row for each job, by number: what not all of them were set to, how it ended, step and validation scores."""
    jobs = [(path.parent, json.loads(path.read_text())) for path in folder.rglob("job.json")]
    jobs.sort(key=lambda job: job[1]["job"])
    settings = {run: _overrides(run) for run, _ in jobs}
    shared = set.intersection(*map(set, settings.values())) if len(jobs) > 1 else set()
    rows = []
    for run, job in jobs:
        if job["status"] == "running":
            job |= {"status": "failed", "reason": "the process that waited for it was killed"}
        scores = json.loads((run / "metrics.json").read_text()) if job["status"] == "finished" else {}
        shown = {name: value for name, value in scores.items() if name == "step" or name.startswith("val/")}
        own = " ".join(text for text in settings[run] if text not in shared)
        rows.append({"job": job["job"], "settings": own, **job, **shown, "folder": run})
    return rows


def _overrides(run: Path) -> list[str]:
    path = run / ".hydra" / "overrides.yaml"
    return yaml.safe_load(path.read_text()) if path.is_file() else []


def draw(folder: Path, rows: list[JobRow]) -> list[str]:
    """Draw the curves of the jobs that have any; returns the names of the files."""
    runs = [row["folder"] for row in rows if any(row["folder"].glob("csv/version_*/metrics.csv"))]
    try:
        return [path.name for path in write_report(read_runs([str(run) for run in runs]), folder)[1]] if runs else []
    except UserError as error:
        log.warning("no plot: %s", error)
        return []


def as_csv(head: list[str], rows: list[JobRow]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, head, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(head: list[str], rows: list[JobRow]) -> str:
    return rows_as_markdown([head, *([_cell(row.get(name)) for name in head] for row in rows)], numbers=False)


def as_terminal(head: list[str], rows: list[JobRow]) -> Table:
    table = Table(box=None, pad_edge=False)
    shown = [name for name in head if name != "reason"]
    for name in shown:
        table.add_column(name, justify="left" if name in ("settings", "status") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(_cell(row.get(name))) for name in shown))
    return table


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
