"""What a model says of pictures, outside of a fit."""

from __future__ import annotations

import torch

from thawline.network.model import TransferModel
from thawline.planning.plan import Plan
from thawline.planning.session import Workbench
from thawline.store.decoded_images import DecodedImages
from thawline.training.batches import OrderedBatches, Rows, Shard

_MIXED = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def logits_of(
    plan: Plan, model: TransferModel, bench: Workbench, images: DecodedImages, rows: Rows, shard: Shard | None = None
) -> tuple[torch.Tensor, Rows]:
    """The logits (N, C) of this process's share of the pictures `rows`, on the CPU, and the share's rows (N,).

    Args:
        plan: the run; its batch size, precision and device are taken.
        model: moved to the device, and left in eval mode.
        bench: what the runs of this process share.
        images: the pictures.
        rows: which of them.
        shard: this process among those that share the work; None: it does all.
    """
    shard = shard or Shard()
    settings, device = plan.settings, bench.device(plan.settings)
    mixed = _MIXED.get(settings.trainer.precision)
    model.to(device).eval()
    logits = []
    with torch.inference_mode(), torch.autocast(device.type, dtype=mixed, enabled=mixed is not None):
        for _, batch, _ in OrderedBatches(rows, settings.trainer.eval_batch_size, shard):
            logits.append(model(images.read(batch).to(device)).float().cpu())
    return torch.cat(logits).clone(), rows[shard.rank :: shard.world_size]
