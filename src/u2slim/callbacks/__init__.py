"""What happens around training: checkpoints, pictures, curves, guards against losses that lead nowhere."""

from u2slim.callbacks.checkpoint import StepCheckpoint
from u2slim.callbacks.confusion import ConfusionPicture
from u2slim.callbacks.ema import EMA
from u2slim.callbacks.losses import BaseRate, StopAtNonFinite, StopBelow
from u2slim.callbacks.optimizer_curves import OptimizerCurves
from u2slim.callbacks.pictures import ValidationPictures
from u2slim.callbacks.progress import Progress
from u2slim.callbacks.throughput import Throughput

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
