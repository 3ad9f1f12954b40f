"""Heads that read one feature vector of an image: the classifiers, which other tasks of one vector use as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, final

from pydantic import Field, field_validator

from thawline.errors import nearest, usage_error
from thawline.network import Features, SourceClassifier
from thawline.randomness import seeded
from thawline.specs import Spec

if TYPE_CHECKING:
    from torch import nn


@final
class Linear(Spec):
    """Dropout and one linear layer. ``init: zeros`` starts from uniform predictions."""

    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    init: Literal["default", "zeros"] = "default"

    def build(
        self, features: Features, classes: Sequence[str], source: SourceClassifier | None, seed: int
    ) -> nn.Module:
        """Features (B, width) -> outputs (B, len(classes))."""
        from torch import nn

        with seeded("head", seed):
            linear = nn.Linear(features.width, len(classes))
        if self.init == "zeros":
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        return nn.Sequential(nn.Dropout(self.dropout), linear) if self.dropout else linear


@final
class MLP(Spec):
    """Hidden layers with normalisation, activation and dropout, then a linear layer."""

    hidden: tuple[int, ...] = (512,)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    normalization: Literal["none", "batch", "layer"] = "none"
    activation: Literal["relu", "gelu", "silu"] = "relu"

    def build(
        self, features: Features, classes: Sequence[str], source: SourceClassifier | None, seed: int
    ) -> nn.Module:
        """Features (B, width) -> outputs (B, len(classes))."""
        from torch import nn

        normalizations = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        activations = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
        layers: list[nn.Module] = []
        width = features.width
        with seeded("head", seed):
            for hidden in self.hidden:
                layers.append(nn.Linear(width, hidden))
                if self.normalization != "none":
                    layers.append(normalizations[self.normalization](hidden))
                layers.append(activations[self.activation]())
                if self.dropout:
                    layers.append(nn.Dropout(self.dropout))
                width = hidden
            layers.append(nn.Linear(width, len(classes)))
        return nn.Sequential(*layers)


@final
class SourceRows(Spec):
    """A linear head that starts from rows of the source classifier.

    `rows` maps a target class to a source row (index or class name) or to several, which are averaged; target classes
    that it leaves out start at random. Without `rows`, the classes are matched by name, and where the source has no
    names but as many classes, in order.
    """

    TASKS: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    rows: dict[str, int | str | list[int | str]] | None = None

    @field_validator("rows", mode="before")
    @classmethod
    def _by_class_name(cls, rows: object) -> object:
        """Classes that are called 5 or 7 come as numbers from yaml and from the command line."""
        return {str(name): row for name, row in rows.items()} if isinstance(rows, Mapping) else rows

    def build(
        self, features: Features, classes: Sequence[str], source: SourceClassifier | None, seed: int
    ) -> nn.Module:
        """Features (B, width) -> outputs (B, len(classes))."""
        import torch
        from torch import nn

        if source is None:
            raise usage_error("head", "these source weights have no linear classifier whose rows could be kept")
        if source.weight.shape[1] != features.width:
            raise usage_error(
                "head", f"the source classifier reads {source.weight.shape[1]} features, not {features.width}"
            )
        with seeded("head", seed):
            linear = nn.Linear(features.width, len(classes))
        with torch.no_grad():
            for target, row in self._assignment(classes, source).items():
                linear.weight[target] = source.weight[row].mean(dim=0)
                linear.bias[target] = 0.0 if source.bias is None else source.bias[row].mean()
        return linear

    def _assignment(self, classes: Sequence[str], source: SourceClassifier) -> dict[int, list[int]]:
        if self.rows is not None:
            for name in self.rows:
                if name not in classes:
                    raise usage_error(f"head.rows.{name}", f"the target has no such class{nearest(name, classes)}")
            listed = {name: rows if isinstance(rows, list) else [rows] for name, rows in self.rows.items()}
            return {
                classes.index(name): [self._row(name, row, source) for row in rows] for name, rows in listed.items()
            }
        by_name = {name: index for index, name in enumerate(source.classes)}
        matched = {target: [by_name[name]] for target, name in enumerate(classes) if name in by_name}
        if matched:
            return matched
        if len(classes) == len(source.weight):
            return {index: [index] for index in range(len(classes))}
        raise usage_error("head.rows", "no target class has the name of a source class; map them by head.rows")

    def _row(self, name: str, row: int | str, source: SourceClassifier) -> int:
        if isinstance(row, int) and 0 <= row < len(source.weight):
            return row
        if isinstance(row, str) and row in source.classes:
            return source.classes.index(row)
        known = f"0..{len(source.weight) - 1}" + ("" if isinstance(row, int) else nearest(row, source.classes))
        raise usage_error(f"head.rows.{name}", f"the source classifier has no row {row!r} ({known})")
