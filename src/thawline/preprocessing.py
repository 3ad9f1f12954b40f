"""How images become a network's input: it belongs to the weights, and travels with them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Pair = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Triple = tuple[float, float, float]
Channel = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Channel, Channel, Channel]
Resize = Literal["crop", "squash", "border", "pad"]


class Preprocessing(BaseModel):
    """The evaluation preprocessing that weights were trained for. A field that is None is not known.

    Attributes:
        size: (H, W) of the images in pixels.
        resize: how an image gets that size (`thawline.transforms.Transform`).
        crop_pct: share of the scaled side that is kept.
        interpolation: how pixels are resampled.
        fill: the colour, 0..255, of what is added around an image.
        mean: of each channel, 0..1.
        std: of each channel, 0..1.
        network_size: (H, W) that the network itself is built for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: Pair | None = None
    resize: Resize | None = None
    crop_pct: float | None = Field(None, gt=0)
    interpolation: str | None = None
    fill: Colour | None = None
    mean: Triple | None = None
    std: Triple | None = None
    network_size: Pair | None = None

    def over(self, other: Preprocessing) -> Preprocessing:
        """What is known here, and else what `other` knows."""
        return other.model_copy(update=self.model_dump(exclude_none=True))
