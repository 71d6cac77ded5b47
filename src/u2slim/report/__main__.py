"""Compare training runs: python -m u2slim.report runs=outputs/train out=comparison (all settings: --help).

The loss and metric curves in their CSV logs go on one page, runs.png and runs.html.
"""

from pathlib import Path

from omegaconf import DictConfig

from u2slim.cli import research_command
from u2slim.errors import UserError
from u2slim.report.curves import write_report
from u2slim.report.runs import read_runs


@research_command("report")
def main(cfg: DictConfig) -> None:
    check(cfg)
    runs = read_runs([cfg.runs] if isinstance(cfg.runs, str) else [str(source) for source in cfg.runs])
    panels, written = write_report(runs, Path(cfg.out))
    print(f"Drew {', '.join(panels)} of {len(runs)} run{'s' * (len(runs) > 1)}:")
    for run in runs:
        print(f"  {run.label}: {run.folder}")
    print("Look at " + " or ".join(map(str, written)))


def check(cfg: DictConfig) -> None:
    """Raise UserError unless both settings are given."""
    if not cfg.runs:
        raise UserError("Say runs=, a folder, a list [A,B,...] or a glob of folders that hold training runs.")
    if not cfg.out:
        raise UserError("Say out=, the folder for runs.png and runs.html.")


if __name__ == "__main__":
    main()
