"""From a plan to a record: data, weights, fit, checkpoint, evaluation, the files of a run."""

from thawline.runtime.later import import_torchmetrics

import_torchmetrics()
