"""Which phases can read stored values at their thaw lines, and which runs share these."""

from __future__ import annotations

from collections.abc import Iterator

from thawline.planning.needs import LineNeed
from thawline.planning.plan import Plan
from thawline.records import identity_of


def forward_regularizers(plan: Plan) -> list[str]:
    """The names of the run's regularizers that read the whole model's forward pass."""
    return [name for name, regularizer in plan.settings.regularizer.items() if "forward" in regularizer.needs]


def why_whole(plan: Plan) -> str:
    """Why the run's phases must see the whole model; empty where they need not."""
    settings, precision = plan.settings, plan.settings.trainer.precision
    if names := forward_regularizers(plan):
        return f"regularizers that need the whole model's forward pass: {', '.join(names)}"
    if settings.cache.mode == "off":
        return "cache=off"
    if settings.trainer.shards_weights:
        return "trainer.strategy=fsdp: the weights of both sides are sharded"
    if precision.endswith("-true") and precision != "32-true":
        return f"precision={precision} changes the weights' type when the fit starts"
    if plan.transform.is_random and not settings.cache.views:
        return "augmentation makes new images in every epoch; cache.views=V stores V views of each"
    return ""


def alike(plan: Plan) -> str:
    """Equal for runs whose thaw lines differ by what trains alone: same network, images and arithmetic."""
    settings = plan.settings
    trainer = settings.trainer
    return identity_of(
        {
            "model": repr(plan.model_key),
            "data": [plan.splits.fingerprint, plan.reading],
            "splits": {name: split.sha256 for name, split in plan.splits.opened.items()},
            "transform": plan.transform.deciding(),
            "task": repr(settings.task),
            "data_seed": settings.data_seed,
            "cache": repr(settings.cache),
            "trainer": [trainer.devices, trainer.eval_batch_size],
        }
    )


def needs_of(plan: Plan) -> Iterator[LineNeed]:
    """What each phase of a run will need."""
    if plan.settings.average is not None or why_whole(plan):
        return
    key, trained = alike(plan), frozenset[str]()
    run_epochs = sum(phase.epochs or 0 for phase in plan.phases)
    for phase in plan.phases:
        yield LineNeed(key, phase.trainable, phase.running_statistics, trained, phase.epochs or 0, run_epochs)
        trained |= phase.trainable
