"""The model of a finished run in one of the formats, with a model card; whole or not at all, and over nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from thawline.errors import nearest, usage_error
from thawline.exports.card import CARD, card
from thawline.exports.finished import FinishedModel, finished_model
from thawline.exports.graphs import Onnx, TorchScript
from thawline.exports.timm_folder import CONFIG, WEIGHTS, TimmFolder
from thawline.exports.weights_file import WeightsFile
from thawline.files import atomic_write, make_folder


class Format(Protocol):
    """A form that a model is written in; without a suffix it is a folder."""

    NAME: str
    SUFFIX: str

    def refusal(self, finished: FinishedModel) -> str:
        """Why the model has no such form; empty: it has one."""
        ...

    def write(self, finished: FinishedModel, target: Path) -> str:
        """Write the file or folder, which is not there yet; what it was held against, in words.

        Raises:
            UsageError: a package is missing, or what was written gives other outputs than the model.
        """
        ...


FORMATS: Mapping[str, Format] = {each.NAME: each for each in (WeightsFile(), Onnx(), TorchScript(), TimmFolder())}


@dataclass(frozen=True)
class Exported:
    """What was written: the model, a file or a folder, and its card; and what it was held against, in words."""

    model: Path
    card: Path
    remark: str

    @property
    def files(self) -> tuple[Path, ...]:
        """All files."""
        inside = sorted(self.model.iterdir()) if self.model.is_dir() else [self.model]
        return tuple(dict.fromkeys([*inside, self.card]))


def format_for(output: Path | None, name: str | None) -> str:
    """The format that is asked for by its name, or else by the ending of the output; safetensors by default.

    Raises:
        UsageError: there is no such format.
    """
    if name is None:
        endings = {each.SUFFIX: each.NAME for each in FORMATS.values() if each.SUFFIX}
        return endings.get(output.suffix if output is not None else "", WeightsFile.NAME)
    if name not in FORMATS:
        raise usage_error("--format", f"there is no {name!r}{nearest(name, FORMATS)}; formats: {', '.join(FORMATS)}")
    return name


def export_run(
    folder: Path, output: Path | None = None, *, form: str | None = None, force: bool = False, chosen: str = ""
) -> Exported:
    """Write the model of the run in `folder`, and its card.

    Args:
        folder: of a finished run.
        output: the file, or of timm the folder; default: ``model`` with the format's ending, in the current folder.
        form: one of `FORMATS`; default: by the ending of `output`, else safetensors.
        force: replace what an earlier export has written there.
        chosen: how the run was chosen among others, for the card.

    Raises:
        UsageError: something is there already, the model has no such form, or a file of the run is damaged.
        WriteError: the disk is full, or the folder cannot be written.
    """
    kind = FORMATS[format_for(output, form)]
    target = output if output is not None else Path("model" + (kind.SUFFIX or f"-{kind.NAME}"))
    cards = target / CARD if not kind.SUFFIX else target.with_name(f"{target.name}.md")
    _check_target(target, cards, kind, force=force)
    finished = finished_model(folder)
    _check_form(finished, kind)
    with _beside(target) as draft:
        remark = kind.write(finished, draft)
        told = finished.plan.settings.task.outputs_told
        text = card(finished.record, kind.NAME, target.name, chosen, told).encode("utf-8", errors="replace")
        if kind.SUFFIX:
            os.chmod(draft, 0o644)
            _flush(draft)
            os.replace(draft, target)
            with atomic_write(cards) as stream:
                stream.write(text)
        else:
            (draft / CARD).write_bytes(text)
            _put(draft, target)
    return Exported(target, cards, remark)


def _check_target(target: Path, cards: Path, kind: Format, *, force: bool) -> None:
    """Raise `UsageError` where writing would replace something that nobody asked to replace."""
    there = next((path for path in (target, cards) if path.exists()), None)
    if there is None:
        return
    if not force:
        raise usage_error("--output", f"{there} exists; --force replaces it")
    if kind.SUFFIX and target.is_dir():
        raise usage_error("--output", f"{target} is a folder, and {kind.NAME} is one file")
    known = {WEIGHTS, CONFIG, CARD}
    if not kind.SUFFIX and not (target.is_dir() and {path.name for path in target.iterdir()} <= known):
        raise usage_error("--output", f"{target} holds more than an earlier export; it is not replaced")


def _check_form(finished: FinishedModel, kind: Format) -> None:
    reason = kind.refusal(finished)
    if reason:
        fitting = [name for name, each in FORMATS.items() if not each.refusal(finished)]
        instead = f"; formats that fit: {', '.join(fitting)}" if fitting else ""
        raise usage_error("--format", f"{kind.NAME}: {reason}{instead}")


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A path beside `target`, in a folder that is gone at the end; a rename from there is one step."""
    make_folder(target.parent)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:64]}.", suffix=".partial"))
    try:
        yield folder / target.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(draft: Path, target: Path) -> None:
    """Rename a folder to `target`; what is there already goes with the draft's own folder."""
    for file in draft.iterdir():
        _flush(file)
    if target.exists():
        os.replace(target, draft.with_name("replaced"))
    os.replace(draft, target)


def _flush(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
