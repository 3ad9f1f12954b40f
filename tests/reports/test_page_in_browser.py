"""The page of a report in a browser: hover, choices, filters, two widths, print, and nothing on its console."""

from __future__ import annotations

import functools
import io
import shutil
from pathlib import Path

import pytest

from tests.make_records import record, scores, sweep
from thawline.reports import make_report
from thawline.reports.document import DASH

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
pypdf = pytest.importorskip("pypdf", reason="pypdf reads what the browser prints")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")]
WIDE, NARROW = 1280, 420
MEANS = "#chart-main path[aria-label*=', trains ']"
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """Two data sets, two strategies, three depths, two seeds; a diverged run and a missing one."""

    def make(overrides, place):
        k, seed = int(place["freeze_policy.k"]), int(place["seed"])
        if (place["dataset"], place["+what"], k, seed) == ("pets", HOSTILE, 9, 1):
            return None
        diverged = (place["dataset"], place["+what"], k, seed) == ("pets", HOSTILE, 1, 1)
        value = None if diverged else 0.6 + 0.02 * k + 0.01 * seed + 0.05 * (place["+what"] == "plain")
        groups = [{"distance": float(index), "relative": index / 10} for index in range(9)]
        return record(
            overrides,
            k=k,
            metrics={"val": scores(value), "test": scores(value)},
            confusion_matrix=[[9, 1, 0, 0, 0], [0, 8, 2, 0, 0], [0, 0, 10, 0, 0], [0, 0, 0, 7, 3], [1, 0, 0, 0, 9]],
            diagnostics={"drift": {"groups": groups}, "cka": {"groups": [{"cka": 0.5}] * 9}},
            diverged=diverged,
            divergence="the loss was not finite" if diverged else "",
        )

    axes = {
        "dataset": ["flowers", "pets"],
        "+what": ["plain", HOSTILE],
        "freeze_policy.k": ["0", "1", "9"],
        "seed": ["0", "1"],
    }
    return make_report(sweep(tmp_path_factory.mktemp("sweep"), axes, make, "page")).html


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, page_file):
    """Opens the page at a width; whatever it says on its console, loads or fails at is a failure of the test."""
    said: list[str] = []
    pages = []

    def open_at(width: int, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request", lambda request: said.extend([] if request.url.startswith(("file:", "data:")) else [request.url])
        )
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(page_file.as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html.drawn")
        pages.append(page)
        return page

    yield open_at
    for page in pages:
        page.close()
    assert said == []


def test_a_point_tells_its_numbers_under_the_pointer_and_to_a_screen_reader(opened):
    page = opened(WIDE)
    point = page.locator(MEANS + "[aria-label*='flowers'][aria-label*='plain, k = 9']")
    assert "top-1 accuracy 0.835 ± 0.0071" in point.get_attribute("aria-label")
    point.hover()
    told = page.locator("#vg-tooltip-element.visible")
    told.wait_for()
    assert "flowers, plain, k = 9" in told.inner_text()
    assert "11,179,077" in told.inner_text()


def test_metric_strategies_and_panel_change_what_is_drawn(opened):
    page = opened(WIDE)
    assert page.locator(MEANS).count() == 12
    page.get_by_role("combobox", name="Metric").select_option(label="macro F1")
    page.wait_for_selector(MEANS + "[aria-label*='macro F1']")
    assert "macro F1 0.815" in page.locator(
        MEANS + "[aria-label*='flowers'][aria-label*='plain, k = 9']"
    ).get_attribute("aria-label")
    page.get_by_role("checkbox", name="plain").uncheck()
    page.wait_for_function(f"document.querySelectorAll({MEANS!r}).length === 6")
    assert "of 24" in page.locator("#chart-runs .dt-info").inner_text()
    page.get_by_role("combobox", name="Panel").select_option(label="pets")
    page.wait_for_function(f"document.querySelectorAll({MEANS!r}).length === 3")
    assert page.locator("#chart-runs .dt-info").inner_text() == "1 to 6 of 6 runs (of 24)"
    # A name is shown as text wherever it stands.
    assert HOSTILE in page.locator("fieldset").inner_text()
    assert page.locator("img[onerror]").count() == 0


def test_the_table_of_runs_sorts_by_key_and_filters(opened):
    page = opened(WIDE)
    cells = page.locator("#chart-runs tbody tr td:nth-child(6)")
    sort = page.get_by_role("button", name="test: Activate to sort")
    sort.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#chart-runs th[aria-sort=ascending]")
    found = [float(text) for text in cells.all_inner_texts() if text != DASH]
    assert found == sorted(found)
    assert found[0] == 0.6
    page.get_by_role("button", name="1 run diverged").click()
    rows = page.locator("#chart-runs tbody tr")
    assert rows.count() == 1
    assert "the loss was not finite" in rows.inner_text()
    link = rows.locator("a")
    assert (Path(page.url.removeprefix("file://")).parent / link.get_attribute("href")).is_file()
    page.locator("#chart-runs input[type=search]").first.fill("")
    page.wait_for_function("document.querySelectorAll('#chart-runs tbody tr').length === 20")


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_page(opened, width, scheme):
    page = opened(width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for name in ("main", "curves", "changes", "cost", "confusion"):
        drawn = page.locator(f"#chart-{name} svg.marks").bounding_box()
        assert drawn["width"] <= page.locator(f"#chart-{name}").bounding_box()["width"] + 1, name
        assert drawn["height"] > 60, name
    assert page.locator(".still").first.is_hidden()


def test_without_a_script_the_figures_stand_in_their_place(opened):
    page = opened(WIDE, java_script_enabled=False)
    assert page.locator(".still").count() == 3
    assert all(figure.is_visible() for figure in page.locator(".still").all())
    assert page.locator("#controls").is_hidden()
    assert all(chart.is_hidden() for chart in page.locator(".chart").all())


def test_it_prints_with_its_answer_and_figure_first(opened):
    page = opened(WIDE)
    printed = pypdf.PdfReader(io.BytesIO(page.pdf(format="A4")))
    first = printed.pages[0].extract_text()
    assert "Sweep page" in first
    assert "was chosen on validation" in first
    text = " ".join(" ".join(sheet.extract_text() for sheet in printed.pages).split())
    # What is folded on the screen is there, what only a pointer can use is not.
    assert "How this is computed" in text
    assert "In the order of the sweep" in text
    assert "runs a page" not in text


def test_a_page_of_runs_that_are_to_come_reloads_itself_and_keeps_what_the_reader_chose(browser, page_file, tmp_path):
    folder = page_file.parent.parent
    make = functools.partial(make_report, folder, tmp_path)
    page = browser.new_page(viewport={"width": WIDE, "height": 500})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(make(reload_seconds=2.0).html.as_uri())
    page.wait_for_selector("html.drawn")
    pause = "document.getElementById('pause').click()"
    page.evaluate(pause)
    page.select_option("#choose-split", "val")
    page.uncheck("#choose-seeds")
    page.click("#controls .chip >> text=plain")
    page.fill("#chart-runs .dt-search input", "pets")
    page.evaluate("document.activeElement.blur()")
    page.evaluate("window.scrollTo(0, 700)")
    at = "document.querySelector('main').getBoundingClientRect().top"
    top = page.evaluate(at)
    with page.expect_event("load"):
        page.evaluate(pause)
    page.wait_for_selector("html.drawn")
    page.evaluate(pause)

    def chosen() -> list[object]:
        return [
            page.input_value("#choose-split"),
            page.is_checked("#choose-seeds"),
            [box.is_checked() for box in page.query_selector_all("#controls .chip input")],
            page.input_value("#chart-runs .dt-search input"),
            # Places between pixels are rounded anew by each page.
            abs(page.evaluate(at) - top) < 2,
        ]

    assert chosen() == ["val", False, [False, True], "pets", True]
    # The last page has them once more, and stays.
    last = make().html
    with page.expect_event("load"):
        page.evaluate(pause)
    page.wait_for_selector("html.drawn")
    assert chosen() == ["val", False, [False, True], "pets", True]
    assert page.query_selector("#pause") is None
    assert page.evaluate("history.state") is None
    assert (page.url, said) == (last.as_uri(), [])
    page.close()
