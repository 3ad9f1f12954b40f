"""The decoded images of a run's data set."""

from __future__ import annotations

import numpy as np

from thawline.planning.context import RunContext
from thawline.planning.plan import Plan
from thawline.store.decoded_images import DecodedImages, decoded
from thawline.training.batches import Rows

_MOST_UNUSED = 4
"""A set is kept whole while it has at most this many times the samples that a run reads."""


def decoded_images(run: RunContext) -> DecodedImages:
    """The decoded images of the run's data set, each decoded once where the store or the memory takes them."""
    transform, splits = run.plan.transform, run.plan.splits
    indices = _rows_in_use(run.plan)
    fixed = {**transform.fixed, **run.plan.reading}

    def make() -> DecodedImages:
        return decoded(
            run.session.data.store(run.settings.cache),
            splits.train.images,
            fixed,
            transform.decode,
            transform.output_size,
            fingerprint=splits.fingerprint,
            indices=indices,
        )

    key = f"{splits.fingerprint} {fixed} {transform.output_size} {run.settings.cache!r} {hash(indices.tobytes())}"
    return run.session.once("decoded", key, make)


def _rows_in_use(plan: Plan) -> Rows:
    """The rows that are kept for the runs of a sweep: all that may be read, so that every seed and subset shares them.

    Where the run reads only a small part of a large set, that part alone. A closed test split is never among them.
    """
    splits = plan.splits
    used = np.unique(np.concatenate([split.indices for split in splits.opened.values()]))
    allowed = np.setdiff1d(np.arange(len(splits.train.images)), splits.closed)
    return allowed if len(allowed) <= _MOST_UNUSED * len(used) else used
