"""What a plan is, in words that reports can use: the kind of transfer, and the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from thawline.freeze_policies import CountsLayerGroups
from thawline.optimization.learning_rates import Uniform
from thawline.planning.plan import Plan
from thawline.records import Recipe, Strategy
from thawline.specs import Component, Spec


def strategy_of(plan: Plan) -> Strategy:
    """The kind of transfer that a plan is."""
    policy = plan.settings.freeze_policy
    return Strategy(
        trains=_trains(plan),
        additions=list(_additions(plan)),
        counted_from=policy.COUNTED_FROM if isinstance(policy, CountsLayerGroups) else None,
    )


def recipe_of(plan: Plan) -> Recipe:
    """How a plan trains."""
    settings, trainer = plan.settings, plan.settings.trainer
    optimizer, transform = settings.optimizer, plan.transform
    decayed = "all parameters" if optimizer.weight_decay_on_norm_and_bias else "not norms and biases"
    return Recipe(
        optimizer=_called(optimizer.target, optimizer.arguments),
        lr=optimizer.lr,
        weight_decay=f"{optimizer.weight_decay:g} ({decayed})" if optimizer.weight_decay else "0",
        learning_rates=in_words(settings.learning_rates),
        schedule=in_words(settings.scheduler),
        epochs=trainer.max_epochs,
        early_stopping=trainer.early_stopping,
        batch_size=trainer.batch_size,
        gradient_clip=trainer.gradient_clip,
        label_smoothing=settings.task.model_dump().get("label_smoothing"),
        precision=trainer.precision,
        input_size=list(transform.output_size),
        resize=transform.resize,
        augmentation=[in_words(step) for step in transform.augmentation],
        head=in_words(settings.head),
        adapter=in_words(settings.adapter) if settings.adapter is not None else None,
        regularizers={name: in_words(regularizer) for name, regularizer in settings.regularizer.items()},
        probe=in_words(settings.probe) if settings.probe is not None else None,
    )


def in_words(node: object) -> str:
    """A config node by its class, with the settings that differ from the defaults: ``Cosine(warmup=0.1)``."""
    if isinstance(node, Component):
        return _called(node.target, node.arguments)
    if not isinstance(node, Spec):
        return str(node)
    fields = type(node).model_fields
    set_here = {name: getattr(node, name) for name, field in fields.items() if getattr(node, name) != field.default}
    return _called(type(node).__name__, set_here)


def _called(target: str, arguments: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{name}={_value(value)}" for name, value in arguments.items())
    name = target.rpartition(".")[2]
    return f"{name}({listed})" if listed else name


def _value(value: Any) -> str:
    if isinstance(value, Spec):
        return in_words(value)
    if isinstance(value, Mapping) and isinstance(target := value.get("_target_"), str):
        return _called(target, {key: item for key, item in value.items() if key != "_target_"})
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_value(item) for item in value)}]"
    return str(value)


def _trains(plan: Plan) -> Literal["head", "all", "part"]:
    trained = frozenset[str]().union(*(phase.trainable for phase in plan.phases))
    backbone = trained & frozenset(plan.network.backbone)
    if not backbone and trained == frozenset(plan.network.head):
        return "head"
    whole = len(backbone) == len(plan.network.backbone) and trained >= frozenset(plan.network.head)
    return "all" if whole else "part"


def _additions(plan: Plan) -> Iterator[str]:
    """What a plan adds to training its parameters in one phase at one rate, as the configuration calls it."""
    settings = plan.settings
    if len(plan.phases) > 1:
        yield f"{len(plan.phases)} phases"
    elif plan.phases[0].lr_multiplier != 1.0:
        yield f"rate x {plan.phases[0].lr_multiplier:g}"
    if _trains(plan) == "all" and any(phase.running_statistics == "frozen" for phase in plan.phases):
        yield "frozen running statistics"
    if settings.learning_rates != Uniform():
        yield in_words(settings.learning_rates)
    yield from settings.regularizer
    if settings.adapter is not None:
        yield in_words(settings.adapter)
    if settings.average is not None:
        yield f"{settings.average.method} average"
