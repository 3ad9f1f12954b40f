"""`thawline report --watch`: the report is made again when a record has come, and only then, until none is to come."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.make_records import record, scores, sweep
from tests.reports.depth_sweeps import rows_of
from tests.reports.pages import data_of
from thawline.commands.renewing import Look, Renewal, renew
from thawline.records import Record, write_record
from thawline.reports import ReportFiles, make_report
from thawline.runtime.signals import Interrupted


def made(overrides: list[str], place: dict[str, str]) -> Record:
    level = 0.5 + 0.1 * int(place["freeze_policy.k"])
    return record(overrides, k=int(place["freeze_policy.k"]), metrics={"val": scores(level), "test": scores(level)})


@pytest.fixture
def growing() -> tuple[Path, list[Record]]:
    """A sweep of three depths without a record, and the records that will come."""
    coming: list[Record] = []

    def keep(overrides: list[str], place: dict[str, str]) -> None:
        coming.append(made(overrides, place))

    folder = sweep(Path("outputs"), {"freeze_policy.k": ["0", "1", "2"]}, keep, "growing")
    return folder, coming


def arrive(one: Record) -> None:
    write_record(Path("outputs/runs") / one.identity, one)


class Reports:
    """Makes the report, and keeps of each whether more runs were to come."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, []

    def __call__(self, more: bool) -> ReportFiles:
        self.made.append(more)
        return make_report(self.folder, reload_seconds=7.5 if more else None)


def reloads(files: ReportFiles) -> bool:
    """Whether the page reloads itself, with and without its scripts."""
    text, refresh = files.html.read_text(), '<noscript><meta http-equiv="refresh" content="8"></noscript>'
    found = {data_of(files.html)["reload"] == 7.5, refresh in text, "reloads itself every 7.5 seconds" in text}
    assert len(found) == 1
    return found.pop()


def steps(*actions: Callable[[], object]) -> Callable[[], None]:
    """A pause in which the next of `actions` happens; there is none after the last."""
    left: Iterator[Callable[[], object]] = iter(actions)
    return lambda: next(left)() and None


def test_the_report_is_renewed_as_records_arrive_until_the_last_one(growing):
    folder, coming = growing
    told: list[tuple[int, int, list[str]]] = []
    reloading: list[bool] = []

    def tell(look: Look) -> None:
        reloading.append(reloads(look.files))
        told.append((look.done, look.total, [row["cells"] + row["runs"] for row in rows_of(look.files.table_csv)]))

    reports = Reports(folder)
    pause = steps(
        lambda: None,  # nothing has come
        lambda: arrive(coming[0]),
        lambda: None,
        lambda: [arrive(one) for one in coming[1:]],
    )
    files = renew(Renewal([folder], reports), tell, pause)
    assert told == [(1, 3, ["11", "10", "10"]), (3, 3, ["11", "11", "11"])]
    assert reports.made == reloading == [True, False]
    assert not reloads(files)
    assert [row["k"] for row in rows_of(files.table_csv)] == ["0", "1", "2"]


def test_a_record_that_is_made_again_renews_the_report_and_a_failure_ends_the_watch(growing):
    folder, coming = growing
    for one in coming[:2]:
        arrive(one)
    again = coming[0].model_copy(update={"metrics": {"val": scores(0.9), "test": scores(0.9)}, "notes": ["again"]})
    failed = Path("outputs/runs") / coming[2].identity
    failed.mkdir()
    records_when_made: list[tuple[int, bool]] = []

    def make(more: bool) -> None:
        records_when_made.append((len(list(Path("outputs/runs").glob("*/record.json"))), more))

    pause = steps(
        lambda: None,
        lambda: arrive(again),
        lambda: (failed / "state.json").write_text(json.dumps({"state": "failed", "error": "no memory"})),
    )
    renew(Renewal([folder], make), lambda look: None, pause)
    # The failure leaves no record, but the page must not go on reloading.
    assert records_when_made == [(2, True), (2, True), (2, False)]


def test_ctrl_c_ends_it_with_the_last_report(growing):
    folder, coming = growing
    arrive(coming[0])

    def stop() -> None:
        raise Interrupted(signal.SIGINT)

    reports = Reports(folder)
    files = renew(Renewal([folder], reports), lambda look: None, stop)
    assert (reports.made, reloads(files)) == ([True, False], False)
    assert not [path for path in files.folder.iterdir() if path.name.endswith(".partial")]
    coming[0] = coming[0].model_copy(update={"identity": "0" * 20})
    assert renew(Renewal([folder.parent], Reports(folder)), lambda look: None, stop) is None


def test_the_verb_ends_at_once_where_every_run_is_done(growing, thawline):
    folder, coming = growing
    for one in coming:
        arrive(one)
    result = thawline("report", "growing", "--watch", "--csv")
    assert result.status == 0
    assert result.err == f"3 of 3 runs: {folder / 'report' / 'report.html'}\n"
    assert result.out == (folder / "report" / "table.csv").read_text()
    assert thawline("report", "growing", "--watch", "0").err == "error: --watch: needs a number of seconds above 0\n"
