"""Train a net: python train.py model=dwsep init=pretrained data=duts data.root=DIR (all settings: --help)."""

from omegaconf import DictConfig

from u2slim.cli import in_sweep, output_dir, research_command
from u2slim.training.loggers import wandb_ends_with
from u2slim.training.run import train
from u2slim.training.sweep import run_job, stop_with_sweep


@research_command("train")
def main(cfg: DictConfig) -> float | None:
    if in_sweep():
        return run_job(cfg)
    stop_with_sweep()
    with wandb_ends_with():
        return train(cfg, output_dir())


if __name__ == "__main__":
    main()
