"""What happens around training: checkpoints, pictures, throughput."""

from src.callbacks.checkpoint import StepCheckpoint
from src.callbacks.pictures import ValidationPictures
from src.callbacks.progress import Progress
from src.callbacks.throughput import Throughput

__all__ = ["Progress", "StepCheckpoint", "Throughput", "ValidationPictures"]
