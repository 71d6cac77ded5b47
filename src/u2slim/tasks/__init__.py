"""What is trained: a net with its loss, metrics and optimizer."""

from u2slim.tasks.saliency import SaliencyTask
from u2slim.tasks.semantic import SemanticTask

__all__ = ["SaliencyTask", "SemanticTask"]
