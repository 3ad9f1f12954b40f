"""The statistics of reports and protocols: few runs, paired by seed, exact where possible, honest about what n allows.

Pure functions of arrays. Scores of a strategy are one number per replicate (a seed, or a seed and a data seed); two
strategies are compared on the replicates that both have. A score that is not finite belongs to a diverged run: no
function here drops one silently, `summary` counts them.
"""

from thawline.statistics.bootstrap import RESAMPLES, ImageDifference, over_images, paired_bootstrap
from thawline.statistics.choosing import Choice, Rank, choose_per_replicate, end_of
from thawline.statistics.data_sets import (
    Estimate,
    PairOverDataSets,
    Profiles,
    compare_over_data_sets,
    iqm_over_data_sets,
    normalised,
    performance_profiles,
    tally,
)
from thawline.statistics.equivalence import EQUIVALENCE_CONFIDENCE, equivalent, seeds_needed
from thawline.statistics.friedman import Friedman, cliques, friedman, wilcoxon_holm
from thawline.statistics.in_the_running import beaten, in_the_running
from thawline.statistics.intervals import CONFIDENCE, Bounds, Interval, t_interval, within
from thawline.statistics.joint_sign_flips import joint_sign_flips
from thawline.statistics.multiplicity import holm
from thawline.statistics.paired_tests import McNemar, PairedTest, mcnemar, sign_flip, smallest_p, wilcoxon
from thawline.statistics.pairing import Pairs, paired
from thawline.statistics.proportions import wilson
from thawline.statistics.racing import Drop, Look, is_audited, looks_of, race
from thawline.statistics.samples import Mode
from thawline.statistics.summaries import Summary, interquartile_mean, probability_of_improvement, summary
from thawline.statistics.tuning_curves import Stretch, TuningCurve, expected_best, leaders, tuning_curve
from thawline.statistics.two_way import TwoWay, two_way, two_way_resampled

__all__ = [
    "CONFIDENCE",
    "EQUIVALENCE_CONFIDENCE",
    "RESAMPLES",
    "Bounds",
    "Choice",
    "Drop",
    "Estimate",
    "Friedman",
    "ImageDifference",
    "Interval",
    "Look",
    "McNemar",
    "Mode",
    "PairOverDataSets",
    "PairedTest",
    "Pairs",
    "Profiles",
    "Rank",
    "Stretch",
    "Summary",
    "TuningCurve",
    "TwoWay",
    "beaten",
    "choose_per_replicate",
    "cliques",
    "compare_over_data_sets",
    "end_of",
    "equivalent",
    "expected_best",
    "friedman",
    "holm",
    "in_the_running",
    "interquartile_mean",
    "iqm_over_data_sets",
    "is_audited",
    "joint_sign_flips",
    "leaders",
    "looks_of",
    "mcnemar",
    "normalised",
    "over_images",
    "paired",
    "paired_bootstrap",
    "performance_profiles",
    "probability_of_improvement",
    "race",
    "seeds_needed",
    "sign_flip",
    "smallest_p",
    "summary",
    "t_interval",
    "tally",
    "tuning_curve",
    "two_way",
    "two_way_resampled",
    "wilcoxon",
    "wilcoxon_holm",
    "wilson",
    "within",
]
