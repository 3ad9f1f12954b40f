"""What was written, held against the model that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from thawline.errors import usage_error

_TOLERANCE = 1e-4
"""Of the largest output, or of 1 where that is less: other kernels add up single-precision numbers in another order."""


def agreement(
    model: Callable[[torch.Tensor], Sequence[torch.Tensor]],
    written: Callable[[torch.Tensor], Sequence[torch.Tensor]],
    images: torch.Tensor,
) -> str:
    """The largest difference of any output, in words; on all `images` at once, and on the first alone.

    Raises:
        UsageError: the difference is more than rounding.
    """
    largest = 0.0
    for batch in (images, images[:1]):
        with torch.inference_mode():
            pairs = zip(model(batch), written(batch), strict=True)
            for expected, found in pairs:
                difference = (found - expected).abs().max().item() if found.shape == expected.shape else float("inf")
                # Not >=, so that a NaN is refused too.
                if not difference <= _TOLERANCE * max(1.0, expected.abs().max().item()):
                    raise usage_error(
                        "--format",
                        f"what was written gives other outputs than the model (by {difference:.3g}); it is not kept",
                    )
                largest = max(largest, difference)
    return f"the largest difference is {largest:.1e}" if largest else "equal"
