"""Where a run's curves are shown. Records are the truth; a logger mirrors them, row by row, and never costs a run."""

from thawline.trackers.curves import CSV, TensorBoard
from thawline.trackers.mirror import LoggerSpec, Mirror, Mirrored, mirroring
from thawline.trackers.weights_and_biases import WandB

__all__ = ["CSV", "LoggerSpec", "Mirror", "Mirrored", "TensorBoard", "WandB", "mirroring"]
