"""The report of a run, in a real browser: what it shows, that anybody can read it, and that it holds no reader."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.common.by import By

from tests.sandbox.test_page_browser import (
    CONTRAST,
    browser,  # noqa: F401 - a fixture
    chromium,  # noqa: F401 - a fixture
    hosts_asked,
    wider_than_window,
)

if TYPE_CHECKING:
    from selenium import webdriver

    from tests.target.conftest import Engage

pytestmark = pytest.mark.xdist_group("browser")  # one browser at a time

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "output" / "report"
CANARY = "canary-reader-0001"
AXE = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def reported(engage: Engage) -> Engage:
    """Two days: a reader who leaves, one with a word that nobody knows, one with a canary for an id and a plan."""
    engage.config |= {"traits": "all,computed", "segments": "all"}
    rows = [
        *engage.subscriptions(8),
        engage.subscription(9, user=CANARY, term_name=f"<b>{CANARY}</b>", auto_renew=False),
        engage.subscription(10, subscription_status="Paused"),
        engage.subscription(11, term_name="x" * 2000),
    ]
    assert engage.run(engage.snapshot(rows)).code == 0
    rows[0] |= {"auto_renew": False, "access_expiration_date": "2026-03-30T00:00:00+00:00"}
    assert engage.run(engage.snapshot(rows)).code == 0
    return engage


def pages(engage: Engage) -> list[Path]:
    return sorted((engage.folder / "runs").glob("*.html"), key=lambda path: path.stat().st_mtime_ns)


def table(browser: webdriver.Chrome, section: str) -> dict[str, list[str]]:  # noqa: F811 - not the fixture
    """Read a table of the page: by the heading of a row, its other cells."""
    rows = browser.find_elements(By.XPATH, f"//section[@aria-labelledby='{section}']//tbody/tr")
    cells = ([cell.text for cell in row.find_elements(By.XPATH, "./th|./td")] for row in rows)
    return {name: rest for name, *rest in cells}


def violations(browser: webdriver.Chrome) -> list[Any]:  # noqa: F811 - not the fixture
    """Ask axe what is not accessible."""
    browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    browser.refresh()
    browser.execute_script(AXE)
    found = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]


def test_the_report_shows_what_the_run_did(browser: webdriver.Chrome, reported: Engage) -> None:  # noqa: F811
    first, second = pages(reported)
    browser.get(second.as_uri())
    assert browser.find_element(By.TAG_NAME, "h1").text == "Piano to Recurly Engage: finished"
    funnel = table(browser, "funnel")
    assert [row[0] for row in funnel.values()] == ["11", "11", "11", "1", "1"]
    assert table(browser, "segments")["cancel_pending_soon"][:3] == ["1", "1", "0"]
    assert table(browser, "traits")["lifecycle_stage"][:3] == ["0", "1", "0"]
    assert len(table(browser, "history")) in {1, 2}, "both runs may have begun in one minute"
    text = browser.find_element(By.TAG_NAME, "main").text
    assert "“paused” is not in the map: 1 subscription(s)" in text
    assert "term_name: longer than 1000 characters" in text
    assert "The newest change that Piano told of is from 2026-01-01 10:00 UTC, 2060.0 hours before the run" in text
    assert "Is an old export being read?" in text
    assert "Nothing new." in text
    browser.get(first.as_uri())
    text = browser.find_element(By.TAG_NAME, "main").text
    assert "lifecycle_stage: set type string and display multi-select" in text
    assert "Segment grace: type in the row segment_grace Include true, and enable it" in text


def test_a_run_that_the_brake_stopped_says_so_and_sent_nothing(
    browser: webdriver.Chrome,  # noqa: F811
    reported: Engage,
) -> None:
    assert reported.run(reported.snapshot(reported.subscriptions(1))).code == 80
    browser.get(pages(reported)[-1].as_uri())
    assert "stopped" in browser.find_element(By.TAG_NAME, "h1").text
    assert "brake_min_rows_fraction" in browser.find_element(By.CLASS_NAME, "notice").text
    assert "Nothing was sent." in browser.find_element(By.TAG_NAME, "main").text or table(browser, "funnel")


def test_it_asks_nobody_for_anything_and_holds_no_reader(
    browser: webdriver.Chrome,  # noqa: F811
    reported: Engage,
) -> None:
    for page in pages(reported):
        content = page.read_text(encoding="utf-8")
        assert CANARY not in content
        assert "xxxx" not in content
        browser.get(page.as_uri())
        assert browser.get_log("browser") == []
    assert hosts_asked(browser) == {""}, "the files themselves"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_anybody_can_read_it(browser: webdriver.Chrome, reported: Engage, scheme: str) -> None:  # noqa: F811
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(pages(reported)[-1].as_uri())
    assert browser.execute_script(CONTRAST) == []
    assert violations(browser) == []


def test_the_check_of_accessibility_sees_what_is_wrong(browser: webdriver.Chrome) -> None:  # noqa: F811
    browser.get("data:text/html,<html><img src='data:,'><p style='color:rgb(200,200,200)'>faint</p></html>")
    assert {"image-alt", "html-has-lang"} <= {one for one, _ in violations(browser)}


@pytest.mark.parametrize("width", [320, 400, 768])
def test_it_fits_a_phone(browser: webdriver.Chrome, reported: Engage, width: int) -> None:  # noqa: F811
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(pages(reported)[-1].as_uri())
    assert wider_than_window(browser) == 0


def test_it_can_be_printed_and_screenshots_are_kept(browser: webdriver.Chrome, reported: Engage) -> None:  # noqa: F811
    OUTPUT.mkdir(parents=True, exist_ok=True)
    browser.get(pages(reported)[-1].as_uri())
    browser.save_screenshot(str(OUTPUT / "report.png"))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(printed["data"]) > 10_000


def test_a_report_that_is_not_wanted_is_not_written(engage: Engage) -> None:
    assert engage.run(engage.snapshot(engage.subscriptions(1)), report=False).code == 0
    assert not pages(engage)
