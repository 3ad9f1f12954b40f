"""The protocol of VTAB-1k: tune on 800 images and validate on 200, train on all 1,000 again, and test once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from pydantic import Field

from thawline.protocols.protocol import Candidate, Finished, Point, Stage
from thawline.protocols.tuning import TuningProtocol
from thawline.records.protocol import ChoiceEntry


@final
class Vtab(TuningProtocol):
    """Every candidate is tuned on part of a few images, and what was chosen is trained on all of them and tested once.

    Zhai et al. 2019, "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark". The
    runs that are tested have no validation images left: they keep their last epoch.

    Attributes:
        n_train_val: images for training and validation together, of which `dataset.val_fraction` validate.
        data_seed: draws these images, and is the data seed of every run.
        seeds: fresh seeds, on which the chosen setting is trained and tested.
    """

    n_train_val: int = Field(default=1000, ge=2)
    data_seed: int = Field(default=0, ge=0)
    seeds: int = Field(default=5, ge=1)

    @property
    def given(self) -> Mapping[str, int]:
        """The images are the same ones in all runs."""
        return {"dataset.n_train_val": self.n_train_val, "data_seed": self.data_seed}

    @property
    def retrains(self) -> bool:
        """What is tested is trained on the validation images, too."""
        return True

    def next_stage(self, candidates: Sequence[Candidate], done: Sequence[Finished]) -> Stage | None:
        """Tune, in one stage or in rounds; then test."""
        tune = self.tune_stage(candidates, done)
        if tune is not None:
            return tune
        if done[-1].stage.purpose == "test":
            return None
        chosen = ((one.index, self.best_trials(one, done)[0]) for one in candidates)
        seeds = self.numbered_seeds(1, self.seeds)
        points = [Point(index, seed, trial.changes, trial.number) for index, trial in chosen for seed in seeds]
        return Stage("test", "test", tuple(points))

    def choices(self, candidates: Sequence[Candidate], done: Sequence[Finished]) -> Mapping[int, ChoiceEntry]:
        """The best trial of each candidate."""
        tune = [finished for finished in done if finished.stage.purpose == "tune"]
        if len(tune) < self.tune_stages:
            return {}
        return {one.index: self.choice(one, self.best_trials(one, tune)[0], tune) for one in candidates}
