"""A model card: what the model is, the numbers of its record, how images go in, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from thawline.preprocessing import Preprocessing
from thawline.records import Record
from thawline.reports.escaping import code_fence, command_line, markdown, plain
from thawline.reports.loaded_run import LoadedRun, loaded_run

CARD = "README.md"
_MOST_NAMES = 100
_WITH_VALUES = ("onnx", "torchscript")
"""These give what a reader is shown beside the outputs."""
_SPLITS = {"val": "validation", "test": "test"}


def card(record: Record, form: str, name: str, chosen: str = "", outputs_told: str = "") -> str:
    """The card of an exported model, in Markdown.

    Args:
        record: of the run.
        form: the format that was written.
        name: of the file or folder.
        chosen: how the run was chosen among others, a sentence.
        outputs_told: how the outputs of the network become what a reader is shown, a sentence.
    """
    run = loaded_run(record, Path())
    blocks = [
        _front(record, form),
        f"# {markdown(PurePath(_backbone(record)).name)} for {markdown(record.task.replace('_', ' '))}",
        _origin(record, chosen),
        *_warned(record),
        "## Results",
        _results(record, run),
        "## Images",
        _images(record, form),
        _code("python", _EXAMPLES[form].format(name=_text(name), folder=_text(f"local-dir:{name}"))),
        *([markdown(outputs_told)] if outputs_told and form not in _WITH_VALUES else []),
        *_names(record),
        "## Training",
        _table(("setting", "value"), [(setting, markdown(value)) for setting, value in run.recipe]),
        *_made(record, run),
        "## Licence",
        "Not stated: choose one that the licences of the source weights and of the data allow.",
    ]
    return "\n\n".join(blocks) + "\n"


def _front(record: Record, form: str) -> str:
    library = {"timm": "timm", "onnx": "onnx"}.get(form, "pytorch")
    lines = [f"library_name: {library}", "tags:", "- thawline", f"- {json.dumps(record.task)}"]
    return "---\n{}\n---".format("\n".join(lines))


def _origin(record: Record, chosen: str) -> str:
    start, counts = record.provenance.weights, record.parameters
    weights = f"the weights {markdown(PurePath(start.description).name)}" if start.sha256 else "random weights"
    trained = f"{counts.trainable:,} of {counts.total:,} parameters trained, from {weights}"
    found = f"Trained by thawline, run `{record.identity}`: {trained}, on {markdown(_dataset(record))}."
    return f"{found} Chosen: {markdown(chosen)}." if chosen else found


def _warned(record: Record) -> Iterator[str]:
    said = [f"the run diverged: {record.divergence}"] if record.diverged else []
    if said or record.warnings:
        yield "\n".join(f"> Warning: {markdown(warning)}\n>" for warning in [*said, *record.warnings]).rstrip("\n>")


def _results(record: Record, run: LoadedRun) -> str:
    shown = [split for split in record.metrics if split in record.splits or split.startswith("test/")]
    rows = [
        (
            markdown(_SPLITS.get(split, split)),
            _samples(record, split),
            markdown(run.definitions[name].label),
            _value(value),
        )
        for split in sorted(shown, key=lambda split: (split != "test", split == "val"))
        for name, value in record.metrics[split].items()
    ]
    closed = "" if "test" in record.metrics else "\n\nThe run kept its test split closed; validation chose its epoch."
    return _table(("split", "images", "metric", "value"), rows) + closed


def _samples(record: Record, split: str) -> str:
    return str(record.splits[split].samples) if split in record.splits else ""


def _images(record: Record, form: str) -> str:
    images = record.preprocessing or Preprocessing()
    height, width = images.size or (0, 0)
    inside = form in ("onnx", "torchscript")
    rows = [
        ("height x width", f"{height} x {width} pixels, RGB"),
        ("resize", f"{images.resize}, crop_pct {images.crop_pct:g}" if images.crop_pct else str(images.resize)),
        ("interpolation", str(images.interpolation)),
        *([("border", f"RGB {images.fill}")] if images.fill and images.resize in ("border", "pad") else []),
        ("mean", _channels(images.mean)),
        ("standard deviation", _channels(images.std)),
    ]
    said = "The model takes uint8 images and normalises them itself." if inside else "Pixels are scaled to 0..1 first."
    return f"{_table(('preprocessing', 'value'), rows)}\n\n{said}"


def _channels(values: Sequence[float] | None) -> str:
    return ", ".join(f"{value:g}" for value in values or ())


def _names(record: Record) -> Iterator[str]:
    if record.classes:
        listed = ", ".join(markdown(name) for name in record.classes[:_MOST_NAMES])
        more = f", and {len(record.classes) - _MOST_NAMES} more" if len(record.classes) > _MOST_NAMES else ""
        yield f"Outputs, in order: {listed}{more}."


def _made(record: Record, run: LoadedRun) -> Iterator[str]:
    sizes = ", ".join(f"{split.samples} {_SPLITS.get(name, name)}" for name, split in record.splits.items())
    fingerprint = record.provenance.data_fingerprint
    yield f"Data: {markdown(_dataset(record))}, {markdown(sizes)} images, fingerprint `{plain(fingerprint)[:16]}`."
    commit = record.provenance.commit
    changes = " with uncommitted changes" if commit.dirty_sha256 else ""
    packages = record.provenance.packages
    versions = ", ".join(f"{name} {packages[name]}" for name in ("thawline", "torch", "timm") if name in packages)
    yield f"Made by {markdown(versions)}" + (f", commit `{plain(commit.sha)}`{changes}." if commit.sha else ".")
    yield _code("bash", command_line(run.command))


def _dataset(record: Record) -> str:
    """The data set's class and the name of its folder; where the folder lies is the user's own business."""
    node = record.config.get("dataset") or {}
    kind = str(node.get("_target_", "")).rpartition(".")[2]
    root = PurePath(str(node["root"])).name if node.get("root") else ""
    return f"{root} ({kind})" if root else kind


def _backbone(record: Record) -> str:
    return str((record.config.get("backbone") or {}).get("name", "model"))


def _value(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _code(language: str, text: str) -> str:
    fence = code_fence(text)
    return f"{fence}{language}\n{text}\n{fence}"


def _text(value: str) -> str:
    """A text as Python writes it, on one line."""
    return json.dumps(plain(value), ensure_ascii=False)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_EXAMPLES = {
    "safetensors": """from safetensors import safe_open

with safe_open({name}, framework="pt") as file:  # backbone.* and head.*
    about = file.metadata()  # preprocessing, names and task, as JSON""",
    "onnx": """import json, onnxruntime

session = onnxruntime.InferenceSession({name})
about = session.get_modelmeta().custom_metadata_map  # preprocessing, names and task, as JSON
outputs = session.run(None, {{"images": images}})  # uint8 (N, 3, H, W)""",
    "torchscript": """import json, torch

extra = {{"thawline.json": ""}}  # preprocessing, names and task
model = torch.jit.load({name}, _extra_files=extra)
outputs = model(images)  # uint8 (N, 3, H, W)""",
    "timm": """import timm

model = timm.create_model({folder}, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model.pretrained_cfg))""",
}
