"""What one fit is made of: the Lightning module, its batches, selection on validation, the freeze contract."""

from thawline.runtime.later import import_torchmetrics

import_torchmetrics()
