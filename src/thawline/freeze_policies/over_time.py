"""Policies with several phases: what trains changes from one fit to the next, never inside one.

Each phase starts from the best epoch, by validation, of the phase before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final

from pydantic import Field, ValidationError, field_validator, model_validator

from thawline.errors import Problem, UsageError, nearest, usage_error
from thawline.freeze_policies.policy import FreezePolicy, Phase
from thawline.freeze_policies.static import (
    BiasOnly,
    Blocks,
    Counted,
    FirstK,
    FullFineTuning,
    LastK,
    LinearProbe,
    NormOnly,
    Pattern,
)
from thawline.network import Network
from thawline.specs import Spec

OptimizerState = Literal["keep", "drop"]


class Stretch(Spec):
    """How long a phase is, and how fast it learns.

    Attributes:
        epochs: a count, a fraction (0..1) of the trainer's ``max_epochs``, or None for what the others leave of them.
        patience: end after this many epochs without a better validation metric; `epochs` is then the most it takes.
        lr_multiplier: factor on every learning rate of the optimizer.
        running_statistics: ``frozen`` - no norm of the backbone updates its running statistics; ``follow`` - those do
            whose parameters train; None - as the policy says that chose what trains.
    """

    epochs: int | float | None = None
    patience: int | None = Field(default=None, ge=1)
    lr_multiplier: float = Field(default=1.0, gt=0.0)
    running_statistics: Literal["follow", "frozen"] | None = None

    @field_validator("epochs")
    @classmethod
    def _a_count_or_a_fraction(cls, epochs: int | float | None) -> int | float | None:
        if isinstance(epochs, float) and not 0.0 < epochs < 1.0:
            raise ValueError("a fraction of trainer.max_epochs lies between 0 and 1; a count is a whole number")
        if isinstance(epochs, int) and epochs < 1:
            raise ValueError("must be 1 or more")
        return epochs

    def phase(self, name: str, chosen: Phase, optimizer_state: OptimizerState, rate: float = 1.0) -> Phase:
        """The phase that trains what `chosen` does; `rate` is a further factor on its learning rates."""
        return Phase(
            name,
            chosen.trainable,
            epochs=self.epochs if isinstance(self.epochs, int) else None,
            fraction=self.epochs if isinstance(self.epochs, float) else None,
            patience=self.patience,
            lr_multiplier=self.lr_multiplier * rate,
            optimizer_state=optimizer_state,
            running_statistics=self.running_statistics or chosen.running_statistics,
        )


@final
class LPFT(Spec):
    """Linear probing, then fine-tuning (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features ...").

    The probe trains the head to its optimum on the source's features; fine-tuning starts from that head, so that its
    first loss is the probe's and the features move less than from a random head. The authors fine-tune with batch
    norms in evaluation mode: ``fine_tuning.running_statistics: frozen``.
    """

    probe: Stretch = Stretch(epochs=0.5)
    fine_tuning: Stretch = Stretch()
    optimizer_state: OptimizerState = "drop"

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """Two phases: the head, then everything."""
        (head,), (everything,) = LinearProbe().phases(network), FullFineTuning().phases(network)
        return (
            self.probe.phase("probe", head, self.optimizer_state),
            self.fine_tuning.phase("fine-tuning", everything, self.optimizer_state),
        )


@final
class GradualUnfreezing(Counted):
    """One layer group more in each step, the last first (Howard & Ruder 2018, ULMFiT).

    The first step trains the head, the next one the group below it too, and so on down to `k` (a count, ``all``, or a
    group's name) or `depth` (a fraction of all groups); all by default. With ``step.patience`` a step ends when
    validation stops to improve. Step i (from 0) trains at ``lr_decay ** i`` of the learning rate.
    """

    DEFAULT: ClassVar[int | str] = "all"

    groups_per_step: int = Field(default=1, ge=1)
    step: Stretch = Stretch(epochs=1)
    last: Stretch = Stretch()
    lr_decay: float = Field(default=1.0, gt=0.0)
    optimizer_state: OptimizerState = "drop"

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase a step; each trains what the one before it did, and more."""
        most = self.count(network)
        depths = [*range(0, most, self.groups_per_step), most]
        phases = []
        for index, depth in enumerate(depths):
            (chosen,) = LastK(k=depth).phases(network)
            stretch = self.last if index == len(depths) - 1 else self.step
            phases.append(stretch.phase(f"k = {depth}", chosen, self.optimizer_state, self.lr_decay**index))
        return tuple(phases)


@final
class FreezeThenUnfreeze(Counted):
    """First the head on a frozen backbone, then the top `k` layer groups (or a `depth`; all by default) with it.

    The common recipe of tutorials, with a tenth of the learning rate once the backbone trains.
    """

    DEFAULT: ClassVar[int | str] = "all"

    frozen: Stretch = Stretch(epochs=0.5)
    thawed: Stretch = Stretch(lr_multiplier=0.1)
    optimizer_state: OptimizerState = "drop"

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """Two phases: the head, then the top groups and the head."""
        (head,) = LinearProbe().phases(network)
        (top,) = LastK(k=self.count(network)).phases(network)
        return (
            self.frozen.phase("frozen", head, self.optimizer_state),
            self.thawed.phase("thawed", top, self.optimizer_state),
        )


_NAMED = {"head": LinearProbe, "all": FullFineTuning, "norms": NormOnly, "biases": BiasOnly}
_WITH_A_VALUE: Mapping[str, tuple[type[Spec], str]] = {
    "last_k": (LastK, "k"),
    "first_k": (FirstK, "k"),
    "depth": (LastK, "depth"),
    "blocks": (Blocks, "blocks"),
    "patterns": (Pattern, "patterns"),
}


class WrittenPhase(Stretch):
    """A phase that a user writes.

    `train` says what trains beside the head: ``head`` (nothing), ``all``, ``norms``, ``biases``, a list of layer groups
    (indices or names), one of ``{last_k: 2}``, ``{first_k: 1}``, ``{depth: 0.5}``, ``{blocks: [0, layer4.1]}``,
    ``{patterns: [...]}``, or any freeze policy of one phase by its ``_target_``.
    """

    train: FreezePolicy
    name: str | None = Field(default=None, min_length=1)

    @field_validator("train", mode="before")
    @classmethod
    def _in_short(cls, train: object) -> object:
        if isinstance(train, str):
            if train not in _NAMED:
                raise ValueError(f"there is no {train!r}{nearest(train, [*_NAMED, *_WITH_A_VALUE])} ({_choices()})")
            return _NAMED[train]()
        if isinstance(train, Mapping):
            return _with_a_value(train)
        return Blocks(blocks=tuple(train)) if isinstance(train, Sequence) else train


@final
class Phases(Spec):
    """The phases as they are written: each a set of what trains (`WrittenPhase.train`), a length and a rate."""

    phases_: tuple[WrittenPhase, ...] = Field(alias="phases", min_length=1)
    optimizer_state: OptimizerState = "drop"

    @model_validator(mode="after")
    def _names_differ(self) -> Phases:
        names = [self._name(index) for index in range(len(self.phases_))]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two phases have the name {twice[0]!r}")
        return self

    def phases(self, network: Network) -> tuple[Phase, ...]:
        """One phase for each that is written."""
        return tuple(
            written.phase(self._name(index), _chosen(written.train, network, index), self.optimizer_state)
            for index, written in enumerate(self.phases_)
        )

    def _name(self, index: int) -> str:
        return self.phases_[index].name or f"phase {index}"


def _chosen(policy: FreezePolicy, network: Network, index: int) -> Phase:
    field = f"freeze_policy.phases[{index}].train"
    try:
        phases = policy.phases(network)
    except UsageError as error:
        raise UsageError([Problem(field, problem.message) for problem in error.problems]) from None
    if len(phases) != 1:
        raise usage_error(field, f"{type(policy).__name__} has {len(phases)} phases itself; one is wanted")
    return phases[0]


def _with_a_value(train: Mapping[Any, Any]) -> object:
    if len(train) != 1 or next(iter(train)) not in _WITH_A_VALUE:
        raise ValueError(f"{dict(train)} does not say what trains ({_choices()})")
    ((key, value),) = train.items()
    policy, field = _WITH_A_VALUE[key]
    try:
        return policy.model_validate({field: value})
    except ValidationError as error:
        raise ValueError(f"{key}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _choices() -> str:
    return f"one of {', '.join(_NAMED)}, or a value for one of {', '.join(_WITH_A_VALUE)}"
