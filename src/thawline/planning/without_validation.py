"""What a run that trains on its validation images cannot have: whatever is chosen, stopped or measured on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from thawline.errors import Problem, UsageError
from thawline.freeze_policies import Phase
from thawline.planning.settings import RunSettings


def check_without_validation(settings: RunSettings, phases: Sequence[Phase]) -> None:
    """Refuse what needs validation images, where ``train_on=train_val`` leaves none.

    Raises:
        UsageError: with a problem for each part.
    """
    problems = [Problem(field, f"{why}, and train_on=train_val leaves none") for field, why in _needs(settings, phases)]
    if problems:
        raise UsageError(problems)


def _needs(settings: RunSettings, phases: Sequence[Phase]) -> Iterator[tuple[str, str]]:
    if not settings.open_test:
        yield "open_test", "a run that keeps the test split closed is evaluated on validation images"
    if settings.average is not None:
        yield "average", "an average of weights is chosen on validation images"
    if settings.probe is not None:
        yield "probe", "lbfgs_path chooses its strength on validation images"
    if settings.trainer.early_stopping is not None:
        yield "trainer.early_stopping", "when to stop is seen on validation images"
    waiting = [phase.name for phase in phases if phase.patience is not None]
    if waiting:
        yield "freeze_policy", f"phase {waiting[0]!r} ends by its patience on validation images"
    for name, regularizer in settings.regularizer.items():
        if "validation" in regularizer.needs:
            yield f"regularizer.{name}", f"{type(regularizer).__name__} is calibrated on validation images"
    for name in ("cka", "feature_distance"):
        if getattr(settings.diagnostics, name):
            yield f"diagnostics.{name}", "it is measured on validation images"
