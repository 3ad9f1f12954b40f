"""What is known of the weights in a file: the names of their classes, their images, what their head is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from thawline.errors import first_line, usage_error
from thawline.files import read_json
from thawline.network import SourceClassifier
from thawline.preprocessing import Preprocessing
from thawline.records.names import RECORD_FILE
from thawline.tensor_files import metadata_of

FIELD = "backbone.weights"

_LABELS = ".labels.txt"


@dataclass(frozen=True)
class Description:
    """What a weights file, and the files beside it, say of the weights.

    Attributes:
        classes: the names of its classes.
        preprocessing: what is known of its images.
        file: where the classes are named.
        head: the class of a head that is more than the linear layer that its tensors look like.
    """

    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    file: str = ""
    head: str = ""


def described(path: Path) -> Description:
    """What is known of the weights in a file: names of their classes, and preprocessing.

    Classes are in a text file beside it that is called ``<file without its suffix>.labels.txt``, one name a line, in
    the order of the classifier's rows; else, as the preprocessing, in the metadata of a safetensors file that thawline
    wrote; else in the record beside it.

    Raises:
        UsageError: the labels cannot be read, or the metadata is damaged.
    """
    found = _by_metadata(path)
    if found is None:
        found = _by_record(path.with_name(RECORD_FILE))
    labels = path.with_suffix(_LABELS)
    if not labels.is_file():
        return found
    try:
        names = labels.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, ValueError) as error:
        raise usage_error(FIELD, f"{labels}: not readable as UTF-8 text: {first_line(error)}") from None
    return replace(found, classes=tuple(name.strip() for name in names), file=str(labels))


def _by_metadata(path: Path) -> Description | None:
    about = metadata_of(path) if path.suffix == ".safetensors" else {}
    if "classes" not in about:
        return None
    try:
        # Before, there were single entries, and not all of them.
        earlier = {"size": about.get("input_size"), "mean": about.get("mean"), "std": about.get("std")}
        values = json.loads(about.get("preprocessing", "{}"))
        values |= {name: json.loads(text) for name, text in earlier.items() if text is not None and name not in values}
        images = Preprocessing.model_validate(values)
        return Description(tuple(json.loads(about["classes"])), images, str(path), about.get("head", ""))
    except (ValueError, TypeError) as error:
        raise usage_error(FIELD, f"{path}: its metadata is damaged: {first_line(error)}") from None


def _by_record(record: Path) -> Description:
    try:
        values = read_json(record)
        classes = tuple(str(name) for name in values["classes"])
        return Description(classes, Preprocessing.model_validate(values.get("preprocessing") or {}), str(record))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ValidationError):
        return Description()


def named(classifier: SourceClassifier | None, description: Description) -> SourceClassifier | None:
    """The classifier with the names of its classes, where they are known; None where the head is more than that.

    Raises:
        UsageError: there are not as many names as rows.
    """
    if classifier is None or description.head:
        return None
    if not description.classes:
        return classifier
    rows, names = len(classifier.weight), len(description.classes)
    if rows != names and not description.file.endswith(_LABELS):
        return classifier
    if rows != names:
        raise usage_error(FIELD, f"{description.file} names {names} classes, but the classifier has {rows} rows")
    return replace(classifier, classes=description.classes)
