"""``thawline verify`` finds every edit of a record: by what follows from other numbers, and by the seal."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY, records
from thawline.records import seal_of

Content = dict[str, Any]


@pytest.fixture(scope="module")
def finished(zygote, tmp_path_factory) -> Path:
    """The folder of a finished run."""
    place = tmp_path_factory.mktemp("finished")
    done = zygote.run("train", *TINY, "freeze_policy.k=1", "trainer.max_epochs=3", folder=place)
    assert done.wait() == 0, done.err
    (folder,) = records(str(place / "outputs"))
    return folder


def edited(folder: Path, edit: Callable[[Content], object], thawline, *, sealed: bool) -> tuple[int, str]:
    """What `verify` says of the record after `edit`, with a seal made anew (`sealed`) or left as it was."""
    file = folder / "record.json"
    whole = file.read_bytes()
    content = json.loads(whole)
    edit(content)
    if sealed:
        content["seal"] = seal_of(content)
    file.write_text(json.dumps(content))
    try:
        result = thawline("verify", str(folder))
    finally:
        file.write_bytes(whole)
    return result.status, result.err + result.out


def paths(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all numbers, texts and flags."""
    if isinstance(value, dict):
        return [path for key, item in value.items() for path in paths(item, (*place, key))]
    if isinstance(value, list):
        return [path for index, item in enumerate(value) for path in paths(item, (*place, index))]
    return [place]


def changed(content: Content, path: tuple[Any, ...]) -> Content:
    """The content with one value changed to another of its type."""
    content = copy.deepcopy(content)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    value = holder[path[-1]]
    if isinstance(value, bool) or value is None:
        holder[path[-1]] = not value
    elif isinstance(value, (int, float)):
        holder[path[-1]] = value + 1
    else:
        holder[path[-1]] = f"{value} "
    return content


def test_a_whole_run_has_no_problems(finished, thawline):
    assert edited(finished, lambda content: None, thawline, sealed=False) == (
        0,
        "1 run checked: 1 whole, 0 with problems\n",
    )


def test_the_seal_changes_with_every_value(finished):
    content = json.loads((finished / "record.json").read_text())
    places = [path for path in paths(content) if path != ("seal",)]
    assert len(places) > 200
    assert content["seal"] == seal_of(content)
    assert [path for path in places if seal_of(changed(content, path)) == content["seal"]] == []


def put(path: str, change: Callable[[Any], Any]) -> Callable[[Content], None]:
    def edit(content: Content) -> None:
        *way, last = path.split(".")
        for key in way:
            content = content[int(key) if isinstance(content, list) else key]  # type: ignore[call-overload]
        content[last] = change(content[last])  # type: ignore[index]

    return edit


EDITS = [
    ("metrics.val.top1", lambda value: value + 0.1, "metrics.val.top1: "),
    ("metrics.val.loss", lambda value: value * 0.9, "metrics.val.loss: "),
    ("metrics.test.top1", lambda value: value + 0.01, "metrics.test.top1: "),
    ("metrics.test.loss", lambda value: value * 0.999, "metrics.test.loss: "),
    ("metrics.test.top5", lambda value: value + 0.02, "metrics.test.top5: "),
    ("metrics.test.macro_f1", lambda value: value + 0.001, "metrics.test.macro_f1: "),
    ("metrics.test.macro_accuracy", lambda value: value + 0.001, "metrics.test.macro_accuracy: "),
    ("metrics.test.calibration_error", lambda value: value + 0.01, "metrics.test.calibration_error: "),
    ("confusion_matrix", lambda rows: [*rows[1:], rows[0]], "confusion_matrix: not that of predictions.npz"),
    ("config.seed", lambda seed: seed + 1, "config.seed: not what the identity was made from"),
    ("config.optimizer.lr", lambda lr: lr * 2, "config.optimizer: not what the identity was made from"),
    ("identity_parts.settings.seed", lambda seed: seed + 1, "identity_parts: they do not give the identity"),
    ("splits.test.sha256", lambda sha256: "0" * 64, "splits.test.sha256: not that of the identity"),
    ("classes", lambda classes: classes[::-1], "classes: not those of the identity"),
    ("selection.epoch", lambda epoch: 99, "selection.epoch: 99, and the history has 3 epochs"),
    ("selection.value", lambda value: value + 0.1, "selection.value: "),
    ("parameters.frozen", lambda count: count + 1, "parameters are not"),
]


@pytest.mark.parametrize(("path", "change", "said"), EDITS, ids=[path for path, _, _ in EDITS])
def test_an_edit_is_found_also_with_a_new_seal(finished, thawline, path, change, said):
    status, printed = edited(finished, put(path, change), thawline, sealed=True)
    assert status == 1
    assert f"record.json: {said}" in printed or said in printed


def test_an_edit_that_nothing_else_tells_breaks_the_seal(finished, thawline):
    status, printed = edited(finished, put("cost.train_seconds", lambda seconds: seconds / 2), thawline, sealed=False)
    assert status == 1
    assert "record.json: its seal is not that of its content" in printed


def test_a_better_epoch_than_the_selected_one_is_found(finished, thawline):
    def edit(content: Content) -> None:
        other = (content["selection"]["epoch"] + 1) % 3
        content["history"][other]["val/top1"] = 1.5

    status, printed = edited(finished, edit, thawline, sealed=True)
    assert status == 1
    assert "is not the best epoch by val/top1" in printed


def test_a_record_without_a_seal_is_said_and_passes(finished, thawline):
    status, printed = edited(finished, lambda content: content.pop("seal"), thawline, sealed=False)
    assert status == 0
    assert "1 of the records has no seal, as an earlier version left them" in printed
