"""What is trained: a net with its loss, metrics and optimizer."""

from src.tasks.saliency import SaliencyTask
from src.tasks.semantic import SemanticTask

__all__ = ["SaliencyTask", "SemanticTask"]
