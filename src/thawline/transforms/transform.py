"""From an image to the uint8 tensor that the model takes: a fixed part for every image, and random augmentation.

The fixed part (`decode`) gives an image its size; its result can be stored. Augmentation (`augment`) works on that
result and is a function of (data seed, epoch, index) alone, so it is the same bits for any number of workers, batch
size and order. Scaling to floats and normalisation belong to the model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, overload

from pydantic import Field, field_validator

from thawline.errors import Problem, UsageError, usage_error
from thawline.preprocessing import Colour, Preprocessing, Resize
from thawline.randomness import seeded
from thawline.specs import Component, Spec, validate
from thawline.transforms.placement import Placement, Size
from thawline.transforms.resizing import Interpolation, padded_box, resized
from thawline.transforms.steps import build, unmoved
from thawline.transforms.targets import Target, blank, unwrapped, wrapped

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_Pixels = Annotated[int, Field(ge=1)]
_TRIED_VIEWS = 16
"""How many views show whether steps that move targets keep an image's size: some steps change it now and then."""


class Transform(Spec):
    """How an image becomes the model's input.

    A field that is None is the backbone's own: `fitted` fills it in.

    Attributes:
        size: Height and width of the input, or one number for both.
        resize: The size to scale to is the input's divided by crop_pct; then the centre is cut. crop = scale until that
            size is covered; squash = scale both sides to it, which does not keep proportions; border = scale until the
            image fits into it, and add a border. These are timm's crop modes center, squash and border. pad = scale to
            fit into the input, and add a border.
        crop_pct: Share of the scaled image's side that is kept; above 1, a black border is added. Where it is None and
            `resize` is not, all of the image is kept, except by crop, which takes the backbone's.
        interpolation: How pixels are resampled; always with antialiasing.
        fill: The colour of a border, RGB in 0..255; None is the backbone's mean for border, and black for pad.
        augmentation: Classes of torchvision.transforms.v2 with their arguments, applied in this order to uint8 tensors
            (3, H, W) of the fixed size in training, and to nothing else. A ``size`` that is left out is the input's.
            RandomResizedCrop thus works on the image after its fixed resize.
    """

    size: _Pixels | tuple[_Pixels, _Pixels] | None = None
    resize: Resize | None = None
    crop_pct: float | None = Field(None, gt=0, le=1.25)
    interpolation: Interpolation | None = None
    fill: Colour | None = None
    augmentation: tuple[Component, ...] = ()

    @field_validator("augmentation")
    @classmethod
    def _buildable(cls, steps: tuple[Component, ...]) -> tuple[Component, ...]:
        for step in steps:
            build(step.target, step.arguments, (32, 32))
        return steps

    @property
    def is_random(self) -> bool:
        """Whether a training image looks different from epoch to epoch."""
        return bool(self.augmentation)

    @property
    def output_size(self) -> Size:
        """Height and width of what comes out, once the size is known.

        Raises:
            ValueError: the size is still the backbone's to say.
        """
        if self.size is None:
            raise ValueError("the size is not known before `fitted`")
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def fixed(self) -> dict[str, Any]:
        """What decides the pixels of a decoded image beside its size, as plain values."""
        return {name: getattr(self, name) for name in ("resize", "crop_pct", "interpolation", "fill")}

    def fitted(self, own: Preprocessing, *, whole: bool = False) -> Transform:
        """The same transform with the backbone's `own` values in place of every None; tries the augmentation once.

        Args:
            own: What the backbone says of its images.
            whole: The input must show all of the image, so that what is predicted of every pixel can be put back: the
                image is squashed where `resize` is None. The augmentation is then tried by `check_targets`.

        Raises:
            UsageError: the augmentation does not give an image of the same size and type, or `whole` is asked for and
                a field says that pixels are cut off.
        """
        if whole:
            self._check_whole()
        given = {name: getattr(self, name) for name in type(self).model_fields}
        resize = self.resize or ("squash" if whole else own.resize or "crop")
        keeps_all = whole or (self.resize is not None and self.resize != "crop")
        missing = {
            "size": own.size,
            "resize": resize,
            "crop_pct": 1.0 if keeps_all else own.crop_pct,
            "interpolation": own.interpolation,
            "fill": own.fill if resize == "border" or (self.resize is None and not whole) else None,
        }
        values = {name: missing.get(name) if value is None else value for name, value in given.items()}
        complete: Transform = validate(type(self), values, "transform")
        if not whole:
            complete._try_augmentation()
        return complete

    def check_targets(self, kind: str) -> None:
        """Refuse what cannot move a target of the kind (`Task.TARGET`) together with the image; on a fitted transform.

        Raises:
            UsageError: a step leaves masks or boxes where they were, or the steps do not keep an image's size and type.
        """
        target = blank(kind, self.output_size)
        if target is None:
            return
        problems = [Problem("transform.augmentation", reason) for reason in unmoved(self.augmentation, kind)]
        if problems:
            raise UsageError(problems)
        self._try_augmentation(target)

    def placement(self, original: Size) -> Placement:
        """Where an image of `original` (h, w) pixels lies in the input, once fitted to show the whole image.

        Raises:
            ValueError: the size is still the backbone's to say, or the input does not show the whole image.
        """
        if self.resize == "pad":
            return Placement(original, self.output_size, *padded_box(original, self.output_size))
        if self.resize == "squash" and self.crop_pct in (None, 1.0):
            return Placement(original, self.output_size, 0, 0, *self.output_size)
        raise ValueError(f"the input does not show the whole image: {self.resize}, crop_pct={self.crop_pct}")

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """The backbone's `own`, with what this fitted transform decides."""
        return Preprocessing(size=self.output_size, **self.fixed).over(own)

    def decode(self, image: Image, size: Size | None = None) -> Tensor:
        """The image (RGB) at its fixed size: uint8, (3, H, W). The same bits on every machine.

        `size` (H, W) overrides the transform's own. What is not fitted is bicubic, and a crop that keeps all.
        """
        import numpy as np
        import torch

        crop_pct, interpolation = self.crop_pct or 1.0, self.interpolation or "bicubic"
        pixels = resized(image, size or self.output_size, self.resize or "crop", crop_pct, interpolation, self.fill)
        # NumPy copies in this thread; torch would start threads of its own for each of those that decode.
        return torch.from_numpy(np.asarray(pixels).transpose(2, 0, 1).copy())

    @overload
    def augment(self, image: Tensor, data_seed: int, epoch: int, index: int) -> Tensor: ...

    @overload
    def augment(
        self, image: Tensor, data_seed: int, epoch: int, index: int, target: Target
    ) -> tuple[Tensor, Target]: ...

    def augment(
        self, image: Tensor, data_seed: int, epoch: int, index: int, target: Target | None = None
    ) -> Tensor | tuple[Tensor, Target]:
        """The view of an image in an epoch: uint8, (3, H, W) as `image`; and its target, if one is given.

        The target does not change the image: both move by the same draws, which no pixel decides, so a blank image
        moves a target as the real one does. RandomIoUCrop alone chooses by the boxes, and needs them.

        Args:
            image: What `decode` gave: uint8, (3, H, W).
            data_seed: The seed of the data.
            epoch: The epoch, or the number of the stored view.
            index: The sample's index in the full `Images`.
            target: In pixels of `image` (`thawline.transforms.targets`): {"mask": (H, W) uint8} or {"boxes": (n, 4)
                float, "masks": (n, H, W) uint8, ...}. What comes to lie around a mask is 255, unlabelled, and around
                "masks" 0. Boxes are clipped to the image; those with a side below a pixel, and objects whose mask is
                empty, are left out with their row of every tensor.
        """
        if not self.augmentation:
            return image if target is None else (image, target)
        size = (image.shape[-2], image.shape[-1])
        with seeded("augment", data_seed, epoch, index):
            if target is None:
                view: Tensor = image
                for step in self._steps(size):
                    view = step(view)
                return view
            return self._moved(image, target, size)

    def _moved(self, image: Tensor, target: Target, size: Size) -> tuple[Tensor, Target]:
        import torch
        from torchvision import tv_tensors

        # The image comes first, so that a step that draws for each of its pixels draws as without a target.
        moved: tuple[Any, dict[str, Any]] = (tv_tensors.Image(image), wrapped(target, size))
        for step in self._steps(size):
            moved = step(*moved)
        view, found = moved
        return (view.as_subclass(torch.Tensor) if isinstance(view, torch.Tensor) else view), unwrapped(found, size)

    @cached_property
    def _built(self) -> dict[Size, list[Callable[..., Any]]]:
        return {}

    def _steps(self, size: Size) -> list[Callable[..., Any]]:
        if size not in self._built:
            self._built[size] = [build(step.target, step.arguments, size) for step in self.augmentation]
        return self._built[size]

    def _check_whole(self) -> None:
        problems = []
        if self.resize in ("crop", "border"):
            keeps = "squash and pad keep the whole image"
            problems.append(Problem("transform.resize", f"{self.resize} may cut pixels off; {keeps}"))
        if self.crop_pct not in (None, 1.0):
            problems.append(
                Problem("transform.crop_pct", f"{self.crop_pct} may cut pixels off; 1 keeps the whole image")
            )
        if problems:
            raise UsageError(problems)

    def _try_augmentation(self, target: Target | None = None) -> None:
        if not self.augmentation:
            return
        import torch

        image = torch.zeros((3, *self.output_size), dtype=torch.uint8)
        for epoch in range(1 if target is None else _TRIED_VIEWS):
            try:
                if target is None:
                    view = self.augment(image, 0, epoch, 0)
                else:
                    view, _ = self.augment(image, 0, epoch, 0, target)
            except (ValueError, TypeError, RuntimeError, IndexError, NotImplementedError) as error:
                raise usage_error("transform.augmentation", f"does not work on one image: {error}") from None
            got = (view.dtype, tuple(view.shape)) if isinstance(view, torch.Tensor) else type(view).__name__
            if got != (image.dtype, tuple(image.shape)):
                expected = f"uint8 {tuple(image.shape)}"
                raise usage_error("transform.augmentation", f"must keep type and size: {expected} became {got}")
