"""What happens around training: checkpoints, pictures, curves, guards against losses that lead nowhere."""

from u2slim.callbacks.confusion_picture import ConfusionPicture
from u2slim.callbacks.ema import EMA
from u2slim.callbacks.loss_guards import BaseRate, StopAtNonFinite, StopBelow
from u2slim.callbacks.optimizer_curves import OptimizerCurves
from u2slim.callbacks.progress import Progress
from u2slim.callbacks.step_checkpoint import KeepBest, StepCheckpoint
from u2slim.callbacks.throughput import Throughput
from u2slim.callbacks.validation_pictures import ValidationPictures

__all__ = [
    "EMA",
    "BaseRate",
    "ConfusionPicture",
    "KeepBest",
    "OptimizerCurves",
    "Progress",
    "StepCheckpoint",
    "StopAtNonFinite",
    "StopBelow",
    "Throughput",
    "ValidationPictures",
]
