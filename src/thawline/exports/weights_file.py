"""The tensors of the whole model in one safetensors file: ``backbone.*`` and ``head.*``."""

from __future__ import annotations

from pathlib import Path
from typing import final

from thawline.exports.finished import FinishedModel
from thawline.tensor_files import to_bytes


@final
class WeightsFile:
    """Weights alone; ``backbone.weights=FILE`` goes on from them."""

    NAME = "safetensors"
    SUFFIX = ".safetensors"

    def refusal(self, finished: FinishedModel) -> str:
        """See `thawline.exports.writing.Format`."""
        adapter = type(finished.plan.settings.adapter).__name__
        return "" if finished.folded else f"its adapter ({adapter}) cannot be folded into plain weights"

    def write(self, finished: FinishedModel, target: Path) -> str:
        """See `thawline.exports.writing.Format`."""
        state = finished.model.state_dict()
        target.write_bytes(to_bytes(state, finished.about))
        numbers = sum(tensor.numel() for tensor in state.values())
        return f"{len(state)} tensors, {numbers:,} numbers"
