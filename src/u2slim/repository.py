"""The clone that the package runs from: research needs its configs and doors, cutting out does not."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "conf"
WEIGHTS = REPOSITORY / "weights"  # training checkpoints, which no installed package has
TRAIN = REPOSITORY / "train.py"
