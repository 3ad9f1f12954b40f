"""The report's hard test images: those that the settings predict worst, and those that they disagree on most.

The runs leave thumbnails of their own worst images, and what each said of every image: both are brought together here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from thawline.records import Record, load_record
from thawline.records.gallery import GalleryImage, load_gallery
from thawline.records.names import GALLERY_FILE, IMAGE_SCORE_ARRAY
from thawline.reports.choosing import Group
from thawline.reports.document import Section, StoredImage, number
from thawline.reports.escaping import plain
from thawline.reports.findings import in_order
from thawline.reports.gallery import content_of
from thawline.reports.loaded_run import LoadedRun
from thawline.reports.rows import Row
from thawline.reports.study import Study
from thawline.reports.tables import short

_MOST_CONDITIONS = 3
_MOST_ROWS = 12
_OF_EACH = 6
_MOST_NAMED = 4


@dataclass(frozen=True)
class _Said:
    """What one setting says of the test images, by their places in the data set.

    `texts` is what it says, `scores` how good that is (more is better), `surety` how sure it is of it, where it says
    so, and `truths` what is true, where that is a word.
    """

    name: str
    texts: Mapping[int, str]
    scores: Mapping[int, float]
    surety: Mapping[int, float]
    truths: Mapping[int, str]


@dataclass(frozen=True)
class _Thumbnail:
    """An image that a run has left."""

    run: LoadedRun
    record: Record
    image: GalleryImage


def hard_images(study: Study) -> Iterable[Section]:
    """For each condition the worst and the most contested of the images that its runs left."""
    for place, group in enumerate(study.conditions[:_MOST_CONDITIONS]):
        rows = _compared(study, group)
        runs = [(row, study.best_of(row.runs.values())) for row in rows]
        said = [one for row, run in runs if run is not None and (one := _said(row, run)) is not None]
        if not said:
            continue
        thumbnails, score = _thumbnails(rows)
        every = [index for index in thumbnails if all(index in one.scores for one in said)]
        name = "hard" if len(study.conditions) == 1 else f"hard-{place + 1}"
        images = tuple(_images(name, every, thumbnails, said))
        if not images:
            continue
        where = f" on {short(group.label)}" if group.label else ""
        yield Section(f"Hard test images{where}", (_told(len(said), len(every), score),), images=images)


def _told(settings: int, images: int, score: str) -> str:
    shown = (
        "the prediction of the setting's best run by validation"
        if settings == 1
        else f"the predictions of {settings} settings, the best first, each by its best run on validation"
    )
    return (
        f"Below each image: {shown}. Worst are the images with the lowest {plain(score, 120)}, on average over the "
        f"settings; contested are those on which the settings differ most. Both are among the {images} images that "
        "some run kept as one of its own worst."
    )


def _compared(study: Study, group: Group) -> list[Row]:
    first = [group.chosen] if group.chosen is not None else []
    others = [row for row in study.best_first(group.rows) if row is not group.chosen]
    return [*first, *others][:_MOST_ROWS]


def _said(row: Row, run: LoadedRun) -> _Said | None:
    """What a run says of each test image; None where it kept nothing that tells."""
    name = short(row.label) or "all runs"
    kept = in_order(run, "label", "probabilities")
    if kept is not None and kept["probabilities"].ndim == 2:
        names, (places, labels, shares) = load_record(run.folder).classes, kept.values()
        if len(names) != shares.shape[1]:
            return None
        said = shares.argmax(axis=1)
        found = list(zip(places.tolist(), labels.tolist(), said.tolist(), shares.tolist(), strict=True))
        return _Said(
            name,
            texts={place: short(names[top]) for place, _, top, _ in found},
            scores={place: values[label] for place, label, _, values in found},
            surety={place: values[top] for place, _, top, values in found},
            truths={place: short(names[label]) for place, label, _, _ in found},
        )
    kept = in_order(run, IMAGE_SCORE_ARRAY)
    if kept is None or kept[IMAGE_SCORE_ARRAY].ndim != 1:
        return None
    scores = dict(zip(kept["index"].tolist(), kept[IMAGE_SCORE_ARRAY].tolist(), strict=True))
    finite = {place: score for place, score in scores.items() if math.isfinite(score)}
    return _Said(
        name, texts={place: number(score) for place, score in finite.items()}, scores=finite, surety={}, truths={}
    )


def _thumbnails(rows: Sequence[Row]) -> tuple[dict[int, _Thumbnail], str]:
    """The images that the runs of some rows have left, by their places in the data set, and what they ranked by."""
    found: dict[int, _Thumbnail] = {}
    score = ""
    for run in (run for row in rows for run in row.runs.values()):
        try:
            record, gallery = load_record(run.folder), load_gallery(run.folder)
        except (OSError, ValueError, ValidationError):
            continue  # a run that left none
        if gallery.drawn or record.files.get(GALLERY_FILE) is None:
            continue
        score = score or gallery.score
        for image in gallery.images:
            if image.index is not None:
                found.setdefault(image.index, _Thumbnail(run, record, image))
    return found, score


def _images(
    name: str, every: Sequence[int], thumbnails: Mapping[int, _Thumbnail], said: Sequence[_Said]
) -> Iterable[StoredImage]:
    worst = sorted(every, key=lambda index: (sum(one.scores[index] for one in said), index))[:_OF_EACH]
    others = [index for index in every if index not in worst and _disagreement(index, said) > 0]
    contested = sorted(others, key=lambda index: (-_disagreement(index, said), index))[:_OF_EACH]
    for kind, indices in (("worst", worst), ("contested", contested)):
        for place, index in enumerate(indices, start=1):
            kept = thumbnails[index]
            content = content_of(kept.run.folder, kept.record, kept.image)
            if content is None:
                continue
            truths = {one.truths[index] for one in said if index in one.truths}
            truth = f" Truth: {truths.pop()}." if len(truths) == 1 else ""
            lines = [f"{kind.capitalize()} {place}.{truth}", *_answers(index, said), plain(kept.image.key, 60)]
            caption = "\n".join(lines)
            yield StoredImage(f"{name}-{kind}-{place}", content, caption, caption, small=True)


def _disagreement(index: int, said: Sequence[_Said]) -> float:
    """How much the settings differ on an image: the entropy of what they say, or the deviation of their scores."""
    if any(one.truths for one in said):
        shares = [count / len(said) for count in Counter(one.texts[index] for one in said).values()]
        return -sum(share * math.log(share) for share in shares)
    scores = [one.scores[index] for one in said]
    mean = sum(scores) / len(scores)
    return math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))


def _answers(index: int, said: Sequence[_Said]) -> Iterable[str]:
    """Who says what: each answer with those who give it, the most frequent first."""
    groups: dict[str, list[_Said]] = {}
    for one in said:
        groups.setdefault(one.texts[index], []).append(one)
    for text, members in sorted(groups.items(), key=lambda item: -len(item[1])):
        names = [one.name for one in members[:_MOST_NAMED]]
        rest = len(members) - len(names)
        listed = ", ".join(names) + (f" and {rest} more" if rest else "")
        surety = [one.surety[index] for one in members if index in one.surety]
        sure = f" ({number(sum(surety) / len(surety), 2)})" if surety else ""
        yield f"{listed}: {text}{sure}."
