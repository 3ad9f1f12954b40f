"""The values at one thaw line for the parts of a run, in the store."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from thawline.execution.arithmetic import channels_last, computing_dtype
from thawline.execution.feature_pass import FeaturePass, Stage, Start
from thawline.heads import strides_of
from thawline.own_code import own_code
from thawline.planning.context import RunContext
from thawline.planning.plan import IDENTITY_FORMAT
from thawline.records import FeaturePass as FeaturePassRecord
from thawline.records import identity_of
from thawline.runtime.bfloat16 import bfloat16_instructions
from thawline.specs import classes_in
from thawline.store.decoded_images import DecodedImages
from thawline.store.store import ArraySpec, Entry, EntrySpec, Store
from thawline.thaw_line.cost import Decision, decide, machine_rates
from thawline.thaw_line.partition import ThawLine
from thawline.training.batches import Inputs, Rows

STORED_PARTS = ("train", "val")
"""The parts whose values are stored; those of the test part are among the ones of validation."""


@dataclass(frozen=True)
class LineValues:
    """The values at a thaw line, as the store keeps them.

    Attributes:
        run: a run that reads them, or one that is alike (`stored_phases.alike`).
        line: the line.
        decoded: the images.
        images: reads the images of each part as the model does.
    """

    run: RunContext
    line: ThawLine
    decoded: DecodedImages
    images: Mapping[str, Inputs]

    @cached_property
    def specs(self) -> dict[str, EntrySpec]:
        """The entry of each part; parts whose images are read alike have the same."""
        return {part: self._spec(part) for part in STORED_PARTS}

    @property
    def place(self) -> str:
        """Where the line lies, in words."""
        ends_with_head = strides_of(self.run.settings.head) and self.line.reason == "nothing trains"
        return f"thaw line before {'the head' if ends_with_head else self.line.reason}"

    def views(self, part: str) -> int:
        """How many augmented views of each image are stored; 0 where images are not augmented."""
        return self.run.settings.cache.views if part == "train" and self.run.plan.transform.is_random else 0

    def indices(self, part: str) -> Rows:
        """The rows that are stored: all that any run of the sweep may read; of augmented views, the training rows."""
        return np.sort(self.run.plan.splits.train.indices) if self.views(part) else self.decoded.indices

    def _spec(self, part: str) -> EntrySpec:
        low = self.run.settings.cache.dtype
        arrays = []
        for value in self.line.values:
            dtype = str(value.dtype).removeprefix("torch.")
            stored_as = low if dtype == "float32" and low != "float32" else ""
            arrays.append(ArraySpec(value.name, value.shape, dtype, stored_as))
        views = self.views(part)
        key = {"kind": "thaw line", "prefix": self.line.prefix_key, **self._inputs_key(part)}
        title = self.place + (f", {views} views" if views else "")
        return EntrySpec(key, tuple(arrays), len(self.indices(part)) * max(1, views), title=title)

    def _rows_key(self, part: str) -> str:
        """Equal for lines whose values can be computed one from the other, row by row."""
        return identity_of(self._inputs_key(part))

    def _inputs_key(self, part: str) -> dict[str, object]:
        """All that decides values at a line but the network."""
        import timm

        plan, views, networks = self.run.plan, self.views(part), self.run.session.networks
        settings = plan.settings
        # A network's own code is in the digest of its graph only as far as that could be followed.
        code = own_code(classes_in([settings.backbone, settings.adapter, plan.transform if views else None]))
        return {
            "format": IDENTITY_FORMAT,
            "code": {module: file.sha256 for module, file in code.items()},
            "images": self.decoded.spec.identity,
            "views": {"count": views, "seed": settings.data_seed, "transform": plan.transform.deciding()}
            if views
            else 0,
            "rows": self.indices(part).tolist() if views else 0,
            "device": _kind_of(self.run.device),
            "precision": settings.trainer.precision,
            "channels_last": channels_last(settings, networks.skeleton(settings).module),
            "torch": torch.__version__,
            "timm": timm.__version__,
        }

    @cached_property
    def parts(self) -> list[str]:
        """One part for each entry."""
        return list({spec.identity: part for part, spec in self.specs.items()}.values())

    @cached_property
    def total_bytes(self) -> int:
        """What all entries take on disk."""
        return sum(self.specs[part].total_bytes for part in self.parts)

    def are_stored(self, store: Store) -> bool:
        """Whether all entries are there."""
        entries = [store.open(self.specs[part]) for part in self.parts]
        for entry in entries:
            if entry is not None:
                entry.close()
        return all(entry is not None for entry in entries)

    def decide(self, *, epochs: int, runs_sharing: int, already_stored: bool, on_the_way: bool = False) -> Decision:
        """Whether storing them pays over so many epochs and runs (`cost.decide`)."""
        cache = self.run.settings.cache
        height, width = self.run.plan.transform.output_size
        cache.dir.mkdir(parents=True, exist_ok=True)
        return decide(
            cache.mode,
            prefix_flops_per_sample=self.line.prefix_flops_per_sample,
            bytes_per_sample=self.line.bytes_per_sample,
            input_bytes_per_sample=3 * height * width,
            samples=sum(self.specs[part].samples for part in self.parts),
            epochs=epochs,
            runs_sharing=runs_sharing,
            already_stored=already_stored,
            on_the_way=on_the_way,
            budget_bytes=cache.max_bytes,
            free_bytes=shutil.disk_usage(cache.dir).free,
            rates=machine_rates(self.run.device.type, computing_dtype(self.run.settings.trainer)),
        )

    def entry(
        self, store: Store, part: str, others: Sequence[LineValues] = ()
    ) -> tuple[Entry, FeaturePassRecord | None]:
        """The stored values of a part, and what the pass was that computed them, if they were not there.

        The pass goes on from the deepest line before this one whose values are stored, and stores on its way the values
        at those of `others` that it comes by.

        Raises:
            StoreRefusedError: the store does not take them.
        """
        lines, rows = self.run.session.lines, self._rows_key(part)
        with self._pass(store, part, lines.before(self.line, rows), others) as made:
            entry = store.build(self.specs[part], made, self._batch_size)
        lines.remember(self.line, rows, entry)
        for other in others:
            other._remember(store, part, made.published.get(other.specs[part].identity))
        return entry, made.record

    @property
    def _batch_size(self) -> int:
        return self.run.settings.trainer.eval_batch_size

    def keep(self, store: Store) -> bool:
        """Whether the values of all parts are there; they stay, and deeper lines of this session go on from them."""
        entries = {part: store.open(self.specs[part]) for part in self.parts}
        for part, entry in entries.items():
            self._remember(store, part, entry)
        return all(entry is not None for entry in entries.values())

    def _remember(self, store: Store, part: str, entry: Entry | None) -> None:
        if entry is not None:
            alone = self._pass(store, part, None, ())
            self.run.session.lines.remember(
                self.line, self._rows_key(part), store.renewing(entry, alone, self._batch_size)
            )

    def _pass(
        self, store: Store, part: str, start: tuple[ThawLine, Entry] | None, others: Sequence[LineValues]
    ) -> FeaturePass:
        way = [self]
        for other in sorted(others, key=lambda values: -values.line.prefix_flops_per_sample):
            is_past_start = start is None or other.line.continue_from(start[0]) is not None
            if is_past_start and way[0].line.continue_from(other.line) is not None:
                way.insert(0, other)
        stages, before = [], None if start is None else start[0]
        for values in way:
            onward = values.line.prefix if before is None else values.line.continue_from(before)
            if onward is None:
                raise RuntimeError(f"there is no way to the {values.place}")
            stages.append(Stage(values.line, values.specs[part], onward))
            before = values.line
        return FeaturePass(self.run, store, self._start(part, start), stages)

    def _start(self, part: str, stored: tuple[ThawLine, Entry] | None) -> Start:
        if stored is not None:
            line, entry = stored
            spec = entry.spec
            return Start(entry.read, spec.bytes_per_sample, line.prefix_flops_per_sample, spec.title)
        images, indices = self.images[part], self.indices(part)

        def read(rows: Rows) -> tuple[torch.Tensor, ...]:
            view, sample = divmod(rows, len(indices))
            batches = [images.read(int(epoch), indices[sample[view == epoch]])[0] for epoch in np.unique(view)]
            return (torch.cat(batches),)

        return Start(read, self.decoded.spec.bytes_per_sample)


def _kind_of(device: torch.device) -> str:
    """What computes: other GPUs or instructions may give other last bits, while several of one kind give the same."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}, bfloat16 {bfloat16_instructions()}"
    return str(device)
