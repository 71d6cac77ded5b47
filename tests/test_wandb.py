"""What an offline run leaves for W&B to group, filter and draw by."""

import struct
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import TINY, run

BLOCK, HEADER = 32768, 7


def records(path: Path) -> Iterator:
    """The records of a .wandb file: a LevelDB log of protocol buffers behind a header of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, content = path.read_bytes(), HEADER, b""
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:  # padding at the end of a block
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        content += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(content)
            content = b""


def test_runs_are_grouped_tagged_and_drawn_by_step(duts, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = (*TINY, f"data.root={duts}", "data.val_count=2", "trainer.max_steps=1", "hydra.sweep.dir=sweep")
    wandb = ("logger=wandb", "logger.wandb.offline=true", "+logger.wandb.notes=by hand")
    run("train.py", "-m", "model=dwsep,grouped", "init=random", *options, *wandb, cwd=tmp_path)
    for job, model in (("0", "dwsep"), ("1", "grouped")):
        (path,) = (tmp_path / "sweep" / job / "wandb").glob("offline-run-*/*.wandb")
        found = list(records(path))
        (about,) = (record.run for record in found if record.HasField("run"))
        assert (about.project, about.run_group, about.job_type) == ("u2slim", model, "train")
        assert (about.display_name, about.notes) == (f"{model}-lite-random", "by hand")
        assert list(about.tags) == [f"model={model}", "model.width=lite", "init=random", "data=duts"]
        metrics = {metric.glob_name: metric.step_metric for record in found if (metric := record.metric)}
        assert metrics["*"] == "trainer/global_step"
        logged = {"/".join(item.nested_key) or item.key for record in found for item in record.history.item}
        assert {"trainer/global_step", "train/fused", "val/maxF", "val/MAE"} <= logged
