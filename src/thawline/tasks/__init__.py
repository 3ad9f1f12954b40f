"""Tasks: what a target is, and everything that follows from it.

A new one is a folder with a final class that extends `Task`, and a yaml in ``conf/task``.
"""

from thawline.tasks.shown import Numbers, Probabilities, Shown
from thawline.tasks.targets import ArrayTargets, MovingTargets, Targets, Views
from thawline.tasks.task import LossTerm, SpatialTask, Task

__all__ = [
    "ArrayTargets",
    "LossTerm",
    "MovingTargets",
    "Numbers",
    "Probabilities",
    "Shown",
    "SpatialTask",
    "Targets",
    "Task",
    "Views",
]
