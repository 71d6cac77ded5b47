"""The W&B page that compares training runs, built from code: python -m u2slim.report.workspace entity=me group=SWEEP.

Every call saves a new view of the project and prints its address; dry=true prints its JSON and needs no network.
"""

import json
from collections.abc import Sequence

from omegaconf import DictConfig

from u2slim.cli import research_command
from u2slim.errors import UserError, missing_extra
from u2slim.models import U2Net

STEP = "trainer/global_step"
ANSWER, *SIDES = U2Net.outputs
CURVE_SECTIONS = {
    "Loss": ["train/loss", f"train/{ANSWER}", "val/loss", f"val/{ANSWER}"],
    "Side outputs": [f"train/{name}" for name in SIDES],
    "Validation": [f"val/{name}" for name in ("maxF", "meanF", "MAE", "IoU", "mIoU")],
    "Speed": ["train/images_per_s"],
    "Optimizer": ["train/lr", "train/grad_norm"],
}
PICTURES = ["val/masks", "val/pictures"]


@research_command("workspace")
def main(cfg: DictConfig) -> None:
    if not cfg.entity:
        raise UserError("Say entity=, the W&B user or team that owns the project.")
    workspace = build(cfg.entity, cfg.project, cfg.name, cfg.group, cfg.groupby)
    if cfg.dry:
        print(json.dumps(workspace._spec, indent=2))
        return
    from wandb.errors import Error

    try:
        workspace.save()  # says where
    except (Error, ValueError) as error:
        raise UserError(
            f"W&B did not save the workspace ({str(error).splitlines()[0].rstrip('.')}): see that you are logged in "
            f"(`wandb login`) and that {cfg.entity}/{cfg.project} exists; dry=true prints it without a network."
        ) from error


def build(entity: str, project: str, name: str, group: str | None = None, groupby: Sequence[str] = ()):
    """A `wandb_workspaces` Workspace with a section per kind of curve, and one of pictures.

    Args:
        entity, project: where it will be saved.
        name: as it is listed in the project.
        group: shows only runs of this group.
        groupby: dotted config keys; runs alike in all of them become one line with its spread.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
        from wandb_workspaces import expr
    except ModuleNotFoundError as error:
        raise missing_extra("A W&B workspace", "wandb-workspaces", "wandb") from error

    sections = [
        workspaces.Section(title, [reports.LinePlot(title=y, x=STEP, y=[y]) for y in names], is_open=True)
        for title, names in CURVE_SECTIONS.items()
    ]
    pictures = [reports.MediaBrowser(title=key, media_keys=[key]) for key in PICTURES]
    sections.insert(3, workspaces.Section("Pictures", pictures, is_open=True))
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis=STEP, max_runs=50),
        runset_settings=workspaces.RunsetSettings(
            filters=[expr.Metric("Group") == group] if group else [],
            groupby=[expr.Config(key) for key in groupby],
            pinned_columns=["summary:val/maxF", "summary:val/MAE"],
        ),
    )


if __name__ == "__main__":
    main()
