"""Curves in TensorBoard and MLflow: the numbers that the run itself reports."""

import json

import pytest
from omegaconf import OmegaConf

from tests.conftest import run
from u2slim.errors import UserError
from u2slim.training.run import _logger

DEMO = ("experiment=demo", "trainer.max_steps=2", "callbacks.checkpoint.every_n_train_steps=2", "data.size=64")


@pytest.mark.slow
def test_tensorboard_has_the_runs_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run("train.py", *DEMO, "logger=tensorboard", "hydra.run.dir=run", cwd=tmp_path)
    scores = json.loads((tmp_path / "run/metrics.json").read_text())
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert events.Scalars("val/maxF")[-1].value == pytest.approx(scores["val/maxF"], rel=1e-6)
    assert (tmp_path / "run/csv").is_dir()


@pytest.mark.slow
def test_mlflow_has_the_runs_numbers(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run("train.py", *DEMO, "logger=mlflow", "hydra.run.dir=run", cwd=tmp_path)
    scores = json.loads((tmp_path / "run/metrics.json").read_text())
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("u2slim")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.metrics["val/maxF"] == pytest.approx(scores["val/maxF"], rel=1e-6)
    assert found.data.params["seed"] == "0"


def test_a_logger_that_is_not_installed_is_a_sentence(monkeypatch):
    monkeypatch.setattr("pytorch_lightning.loggers.mlflow._MLFLOW_AVAILABLE", False)
    cfg = OmegaConf.create({"_target_": "pytorch_lightning.loggers.MLFlowLogger"})
    with pytest.raises(UserError, match=r"logger=mlflow needs mlflow: pip install mlflow.*\[mlflow\]"):
        _logger("mlflow", cfg)
