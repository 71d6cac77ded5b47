"""What happens around training: checkpoints, pictures, curves, guards against losses that lead nowhere."""

from src.callbacks.checkpoint import StepCheckpoint
from src.callbacks.confusion import ConfusionPicture
from src.callbacks.ema import EMA
from src.callbacks.losses import BaseRate, StopAtNonFinite, StopBelow
from src.callbacks.optimizer_curves import OptimizerCurves
from src.callbacks.pictures import ValidationPictures
from src.callbacks.progress import Progress
from src.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "BaseRate",
    "ConfusionPicture",
    "OptimizerCurves",
    "Progress",
    "StepCheckpoint",
    "StopAtNonFinite",
    "StopBelow",
    "Throughput",
    "ValidationPictures",
]
