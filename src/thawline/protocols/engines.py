"""Where the settings of trials come from: random draws by counters, or Optuna, which is told what the records say."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thawline.protocols.choosing import Tried
from thawline.protocols.protocol import Candidate
from thawline.protocols.space import Dimension
from thawline.randomness import counter_seed, generator

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Setting = tuple[str, ...]


def drawn(seed: int, candidate: Candidate, number: int) -> Setting:
    """The setting of a trial as a function of (seed, strategy, number).

    Each field has a stream of its own, so that one more field changes no other.
    """
    return tuple(
        f"{field}={dimension.at(generator('protocol', seed, candidate.strategy, number, field).random())}"
        for field, dimension in candidate.space.items()
    )


def has_optuna() -> bool:
    """Whether Optuna is installed."""
    return importlib.util.find_spec("optuna") is not None


def asked(seed: int, candidate: Candidate, number: int, count: int, trials: Sequence[Tried]) -> list[Setting]:
    """`count` further settings by Optuna's TPE, the first of them trial `number`.

    The study is made anew, in memory, of the trials that there are: nothing of it outlives the call.

    Args:
        seed: of the protocol.
        candidate: what is tuned.
        number: of the first of these trials.
        count: how many are asked for at once.
        trials: those of the candidate that are done.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {field: _distribution(dimension) for field, dimension in candidate.space.items()}
    with warnings.catch_warnings():
        # What Optuna calls experimental is asked for on purpose.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=counter_seed("protocol", seed, candidate.strategy, number) % 2**32,
            n_startup_trials=1,
            multivariate=True,
            constant_liar=True,
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        gains = [trial.rank[0] for trial in trials if math.isfinite(trial.rank[0])]
        for trial in trials:
            told = dict(change.split("=", 1) for change in trial.changes)
            params = {field: dimension.value(told[field]) for field, dimension in candidate.space.items()}
            # Without a number, such as after a divergence, it counts as the worst.
            value = trial.rank[0] if math.isfinite(trial.rank[0]) else min(gains, default=0.0)
            study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
        new = [study.ask(distributions).params for _ in range(count)]
    return [
        tuple(f"{field}={candidate.space[field].text(params[field])}" for field in candidate.space) for params in new
    ]


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    values: Any = dimension.values
    if dimension.kind == "choice":
        return CategoricalDistribution(values)
    if dimension.kind == "int":
        return IntDistribution(*values)
    low, high = values
    return FloatDistribution(low, high, log=dimension.kind == "log")
