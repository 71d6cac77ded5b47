"""What is trained: a net with its loss, metrics and optimizer."""

from src.tasks.saliency import SaliencyTask

__all__ = ["SaliencyTask"]
