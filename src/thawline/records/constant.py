"""What a predictor scores that says the same of every image, and whether a run is one, from what a record has."""

from __future__ import annotations

from collections.abc import Sequence

from thawline.records.record import Record


def constant_scores(record: Record, split: str) -> dict[str, float]:
    """The best that saying the same of every image of a split can score, by metric; empty where it is not known.

    All of them are metrics of which more is better. A split of a single class is none on which anything can be learned.
    """
    found = record.splits.get(split)
    if record.task == "regression":
        return {"r2": 0.0}
    if found is None or not found.samples or sum(count > 0 for count in found.per_class) < 2:
        return {}
    if record.task == "classification":
        return _of_classes(found.per_class)
    if record.task == "multilabel":
        # Of images with the same score, the precision is the share that has the class.
        shares = [count / found.samples for count in found.per_class if count]
        return {"map": sum(shares) / len(shares)}
    return {}


def said_of_all(record: Record) -> str:
    """The one class that a run said of every test image; empty: of several, or all of these images are of one class."""
    counts = record.confusion_matrix
    said: set[int] = set()
    for row in counts:
        said.update(index for index, images in enumerate(row) if images)
        if len(said) > 1:
            return ""  # mostly after the first row: a matrix of many classes is not read to its end
    if not said or sum(map(any, counts)) < 2:
        return ""
    (index,) = said
    return record.classes[index] if index < len(record.classes) else ""


def _of_classes(counts: Sequence[int]) -> dict[str, float]:
    """Saying the class with the most of `counts` images."""
    return {"top1": max(counts) / sum(counts), "macro_accuracy": 1 / sum(count > 0 for count in counts)}
