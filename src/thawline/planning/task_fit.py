"""Whether the parts of a run fit its task: what has no meaning for it is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from thawline.config_paths import options
from thawline.errors import Problem, UsageError
from thawline.heads import strides_of
from thawline.planning.settings import RunSettings
from thawline.specs import import_class
from thawline.tasks import SpatialTask, Task


def check_task(settings: RunSettings) -> None:
    """Refuse, by name, what has no meaning for the run's task.

    Raises:
        UsageError: with a problem for each part.
    """
    problems = [*_head_problems(settings), *_part_problems(settings)]
    if problems:
        raise UsageError(problems)


def _head_problems(settings: RunSettings) -> Iterator[Problem]:
    head, task = settings.head, settings.task
    if not _fits(type(head), task, bool(strides_of(head))):
        fitting = [name for name in options("head") if _option_fits(name, task)]
        listed = ", ".join(fitting) if fitting else "none of the options is"
        yield Problem("head", f"{type(head).__name__} is no head for {task.NAME}; these are: {listed}")


def _option_fits(name: str, task: Task) -> bool:
    """Whether an option of ``conf/head`` is a head for the task."""
    node = yaml.safe_load(options("head")[name].read_text(encoding="utf-8"))
    try:
        found = import_class(str(node["_target_"]))
    except (ValueError, KeyError, TypeError):
        return False
    return _fits(found, task, "strides" in getattr(found, "model_fields", {}))


def _fits(head: type, task: Task, reads_maps: bool) -> bool:
    tasks = getattr(head, "TASKS", None)
    return reads_maps == isinstance(task, SpatialTask) and (tasks is None or task.NAME in tasks)


def _part_problems(settings: RunSettings) -> Iterator[Problem]:
    task, of_maps = settings.task, isinstance(settings.task, SpatialTask)
    used: dict[str, Any] = {"probe": settings.probe, "adapter": settings.adapter}
    used |= {f"regularizer.{name}": regularizer for name, regularizer in settings.regularizer.items()}
    used |= {f"shift.{name}": shift for name, shift in settings.shift.items()}
    for field, part in used.items():
        tasks = getattr(part, "TASKS", None)
        if tasks is not None and task.NAME not in tasks:
            yield Problem(field, f"it is of {', '.join(sorted(tasks))} alone, and the task is {task.NAME}")
        elif of_maps and getattr(part, "reads_vector", False):
            yield Problem(field, f"it reads one feature vector of an image, and {task.NAME} reads feature maps")
    if settings.diagnostics.transferability and task.NAME not in settings.diagnostics.TASKS_WITH_TRANSFERABILITY:
        yield Problem("diagnostics.transferability", f"its scores are of classes, and the task is {task.NAME}")
