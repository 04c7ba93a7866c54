"""The report of a run, in a real browser: what it shows, that anybody can read it, and that it holds no reader."""

from __future__ import annotations

import base64
import json
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import jinja2
import pytest
from piano_engage_sandbox.testing import serving
from selenium.webdriver.common.by import By
from target_recurly_engage import report, told
from target_recurly_engage.cli.asking import settings_of
from target_recurly_engage.contract import contract_of
from target_recurly_engage.ledger import Ledger

from tests.sandbox.test_page_browser import (
    CONTRAST,
    browser,  # noqa: F401 - a fixture
    chromium,  # noqa: F401 - a fixture
    hosts_asked,
    wider_than_window,
)
from tests.target.conftest import Engage, places

if TYPE_CHECKING:
    from collections.abc import Callable

    from selenium import webdriver

pytestmark = pytest.mark.xdist_group("browser")  # one browser at a time

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "output" / "report"
CANARY, ADDRESS = "canary-reader-0001", "canary@example.com"
HOSTILE = "<script>document.title='planted'</script><img src='https://planted.example.com/x.png'>"
AXE = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
SEGMENT = {
    "name": "hostile", "description": HOSTILE, "filters": [{"trait": "term_name", "include": {"one_of": [HOSTILE]}}],
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "traits": "all,computed",
    "segments": ["all", SEGMENT],
    "experiments": [{"name": "spring", "description": HOSTILE, "arms": {HOSTILE: 0.5, "control": 0.5}}],
    "streams": {"subscription_log": {"role": "subscriptions"}, HOSTILE: {"role": "users", "traits": ["tier"]}},
}
NO_BUCKET: dict[str, Any] = {
    "delivery": "s3", "s3_endpoint_url": "http://127.0.0.1:1", "s3_bucket": "b", "s3_prefix": "x/ingest/",
    "aws_access_key_id": "a", "aws_secret_access_key": "b", "retry_wait": 0, "retry_attempts": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reported:
    """A target that ran a few times, and the page of each run by what it was."""

    engage: Engage
    pages: dict[str, Path]

    def facts(self, run: str) -> dict[str, Any]:
        """Collect once more what the page of a run shows."""
        told_then = json.loads(self.pages[run].with_suffix(".json").read_text(encoding="utf-8"))
        config = min(self.engage.folder.glob("config-*.json"))
        contract, now = contract_of(settings_of((str(config),))), datetime(2026, 3, 28, 6, tzinfo=UTC)
        with closing(Ledger(self.engage.ledger, memory_limit="200MB")) as ledger:
            return told.facts(told_then, ledger, contract, now=now)


@pytest.fixture(scope="module")
def reported(make_engage: Callable[[], Engage]) -> Reported:
    """Five runs over a reader who leaves, one with an unknown word, a canary for an id, and hostile texts."""
    engage = make_engage()
    engage.config |= SETTINGS
    pages: dict[str, Path] = {}

    def run(name: str, code: int, rows: list[dict[str, Any]], **config: object) -> None:
        people = engage.messages([{"user_id": "u1", "tier": HOSTILE}], stream=HOSTILE, properties=("user_id", "tier"))
        people[0]["key_properties"] = ["user_id"]
        done = engage.run([*engage.snapshot(rows, state=None), *people], **config)
        assert done.code == code, done.log
        (pages[name],) = set((engage.folder / "runs").glob("*.html")) - set(pages.values())

    rows = [
        *engage.subscriptions(8),
        engage.subscription(9, user=CANARY, term_name=HOSTILE, auto_renew=False),
        engage.subscription(10, subscription_status="Paused"),
        engage.subscription(11, term_name="x" * 2000),
        engage.subscription(12, subscription_status=HOSTILE),
        engage.subscription(13, user=ADDRESS, subscription_status=ADDRESS),
    ]
    run("first", 0, rows)
    rows[0] |= {"auto_renew": False, "access_expiration_date": "2026-03-30T00:00:00+00:00"}
    reject = "INSERT INTO rejects VALUES (?, 422, ?, 2, now(), now(), now() + INTERVAL 1 DAY, NULL)"
    with duckdb.connect(str(engage.ledger)) as connection:
        for user, reason in ((CANARY, f"{CANARY} is unknown"), ("u77", f"{ADDRESS} is {HOSTILE}")):
            connection.execute(reject, [user, reason])
    run("second", 0, rows)
    run("brake", 80, rows[:1])
    run("outage", 75, rows, **NO_BUCKET)
    run("dry run", 0, rows, dry_run=True)
    return Reported(engage, pages)


def table(browser: webdriver.Chrome, section: str) -> dict[str, list[str]]:  # noqa: F811 - not the fixture
    """Read the tables of a section: by the heading of a row, its other cells."""
    rows = browser.find_elements(By.XPATH, f"//section[@aria-labelledby='{section}']//tbody/tr")
    cells = ([cell.text for cell in row.find_elements(By.XPATH, "./th|./td")] for row in rows)
    return {name.split("\n")[0]: rest for name, *rest in cells}


def text_of(browser: webdriver.Chrome, section: str) -> str:  # noqa: F811 - not the fixture
    return str(browser.find_element(By.XPATH, f"//section[@aria-labelledby='{section}']").text)


def attention(browser: webdriver.Chrome) -> str:  # noqa: F811 - not the fixture
    return "\n".join(one.text for one in browser.find_elements(By.CLASS_NAME, "notice"))


def lead(browser: webdriver.Chrome) -> str:  # noqa: F811 - not the fixture
    return str(browser.find_element(By.CLASS_NAME, "lead").text)


def violations(browser: webdriver.Chrome) -> list[Any]:  # noqa: F811 - not the fixture
    """Ask axe what is not accessible."""
    browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    browser.refresh()
    browser.execute_script(AXE)
    found = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": False})
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]


def narrow(browser: webdriver.Chrome, width: int) -> None:  # noqa: F811 - not the fixture
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


# What it shows


def test_the_report_shows_what_the_run_did(browser: webdriver.Chrome, reported: Reported) -> None:  # noqa: F811
    browser.get(reported.pages["second"].as_uri())
    assert browser.find_element(By.TAG_NAME, "h1").text == "Piano to Recurly Engage finished"
    assert lead(browser).startswith(
        "What is new of 1 of 13 users was written into the folder; of the others nothing changed."
    )
    assert [row[0] for row in table(browser, "funnel").values()] == ["14", "13", "13", "1", "1"]
    segments = table(browser, "segments")
    assert segments["cancel_pending_soon"][:3] == ["1", "1", "0"]
    assert segments["hostile"][:3] == ["1", "0", "0"]
    assert table(browser, "traits")["lifecycle_stage"][:3] == ["0", "1", "0"]
    came = table(browser, "came")
    assert came["Subscriptions"] == ["13", "13", "0", "13"]
    assert "The newest change that Piano told of is from 2026-01-01 10:00 UTC, 86 days before the run" in text_of(
        browser, "came"
    )
    left_out = table(browser, "rejects")
    assert left_out["paused"] == ["1"]
    assert left_out["term_name: longer than 1000 characters"] == ["1"]
    assert left_out["… is unknown"][:3] == ["422", "1", "2"]
    for words in ("Is an old export being read?", "“paused” is not in the map", "Engage rejects 2 reader(s)"):
        assert words in attention(browser)


def test_it_says_what_an_administrator_should_do_in_pulse(browser: webdriver.Chrome, reported: Reported) -> None:  # noqa: F811
    browser.get(reported.pages["first"].as_uri())
    steps = text_of(browser, "todo")
    assert "Settings > User Traits: set type string, display multi-select:\nsubscription_id" in steps
    made = steps.split("Segments: make one for each of these traits, with the row Include true, and enable it:")[1]
    assert "segment_grace" in made
    assert "experiment_spring Include control" in made
    assert "New traits were told" in attention(browser)
    browser.get(reported.pages["second"].as_uri())
    assert "Nothing new.\nFrom the last 1 runs, if nobody has done it yet\nSettings" in text_of(browser, "todo")
    assert "New traits were told" not in attention(browser)


def test_it_stands_beside_the_runs_before(browser: webdriver.Chrome, reported: Reported) -> None:  # noqa: F811
    browser.get(reported.pages["second"].as_uri())
    runs = browser.find_elements(By.CSS_SELECTOR, "#runs tbody tr")
    assert [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")][:3] for row in runs] == [
        ["finished", "14", "1"], ["finished", "14", "13"],
    ]  # fmt: skip
    assert table(browser, "history")["Readers told"] == ["1", "13", "13", "13"]
    line = browser.find_element(By.XPATH, "//tr[th[starts-with(., 'cancel_pending_soon')]]//*[@class='trend']")
    assert line.get_attribute("aria-label") == "Over 2 runs, the latest last: 0; 1"


def test_a_run_that_the_brake_stopped_says_what_it_saw(browser: webdriver.Chrome, reported: Reported) -> None:  # noqa: F811
    browser.get(reported.pages["brake"].as_uri())
    assert browser.find_element(By.CLASS_NAME, "status").text == "stopped"
    assert lead(browser) == "Nothing was sent."
    assert "brake_min_rows_fraction" in attention(browser)
    saw = table(browser, "brake")
    assert saw["Rows of the subscription log, which is complete"] == ["1", "below 90 % of 13", "wrong"]
    assert saw["Readers who lose all traits"] == ["12", "above 5 % of 13", "wrong"]
    assert saw["Columns missing in the export"] == ["none", "one that Engage was told of", "fine"]
    funnel = table(browser, "funnel")
    assert (funnel["Readers with something to tell"][0], funnel["Written into the folder"][0]) == ("12", "0")


def test_a_run_that_an_outage_stopped_has_its_page(browser: webdriver.Chrome, reported: Reported) -> None:  # noqa: F811
    browser.get(reported.pages["outage"].as_uri())
    assert browser.find_element(By.CLASS_NAME, "status").text == "stopped"
    assert "127.0.0.1:1" in attention(browser)
    assert lead(browser) == "Nothing was sent."
    assert table(browser, "funnel")["Readers"][0] == "?", "nobody counted them"
    assert reported.engage.query("SELECT count(*) FROM runs WHERE status = 'stopped'") == [(2,)]
    browser.get(reported.pages["dry run"].as_uri())
    assert lead(browser) == "A dry run: nothing was sent. 0 of 13 readers would have been told something."


def test_an_outage_in_the_middle_shows_whom_engage_took(browser: webdriver.Chrome, engage: Engage) -> None:  # noqa: F811
    with serving(rows=5, s3_port=0) as server:
        server.control("POST", "faults", {"part": "engage", "status": 503, "skip": 4})
        done = engage.run(
            engage.snapshot(engage.subscriptions(9)), delivery="ingest", **places(server), requests_per_second=0,
            concurrency=1, retry_wait=0, retry_attempts=1,
        )  # fmt: skip
    assert done.code == 75, done.log
    (page,) = (engage.folder / "runs").glob("*.html")
    browser.get(page.as_uri())
    assert lead(browser) == "4 user(s) were acknowledged by Engage before it ended."
    assert [row[0] for row in table(browser, "funnel").values()] == ["9", "9", "9", "9", "4"]


def test_words_of_an_error_that_nobody_foresaw_are_not_shown(reported: Reported) -> None:
    shown = reported.facts("first")
    failed = {**shown["run"], "status": "failed", "message": f"ConversionException: no date in {CANARY}"}
    assert told.message_of(failed) == (
        "ConversionException. The summary beside this page has its words, and the log all of it."
    )


def test_a_report_that_is_not_wanted_is_not_written(engage: Engage) -> None:
    assert engage.run(engage.snapshot(engage.subscriptions(1)), report=False).code == 0
    assert not list((engage.folder / "runs").glob("*.html"))


# Nobody is in it, and nothing leaves it


def finds_nobody(page: str) -> None:
    for planted in (CANARY, ADDRESS, "xxxx"):
        assert planted not in page


def stays_text(browser: webdriver.Chrome) -> None:  # noqa: F811 - not the fixture
    """No text on the page has become a part of it."""
    assert "planted" not in browser.title
    assert browser.find_elements(By.CSS_SELECTOR, "script, img, iframe, object, form") == []


def asks_nobody(browser: webdriver.Chrome) -> None:  # noqa: F811 - not the fixture
    assert hosts_asked(browser) <= {""}, "the files themselves"


def test_it_holds_no_reader(reported: Reported) -> None:
    for page in reported.pages.values():
        finds_nobody(page.read_text(encoding="utf-8"))


def test_hostile_texts_stay_texts_and_it_asks_nobody_for_anything(
    browser: webdriver.Chrome,  # noqa: F811
    reported: Reported,
) -> None:
    for page in reported.pages.values():
        browser.get(page.as_uri())
        stays_text(browser)
        assert browser.get_log("browser") == []
    asks_nobody(browser)
    browser.get(reported.pages["second"].as_uri())
    text = browser.find_element(By.TAG_NAME, "main").text
    assert HOSTILE in text, "in the description of a segment, the reason of a reject, the name of a stream"
    assert f"… is {HOSTILE}" in text
    browser.get(reported.pages["first"].as_uri())
    assert f"experiment_spring Include {HOSTILE}" in browser.find_element(By.TAG_NAME, "main").text


def test_a_page_that_does_not_escape_is_found_out(
    browser: webdriver.Chrome,  # noqa: F811
    reported: Reported,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    shown, page = reported.facts("second"), tmp_path / "page.html"

    def careless(**options: object) -> jinja2.Environment:
        return jinja2.Environment(**{**options, "autoescape": False})  # type: ignore[arg-type]  # noqa: S701 - the point

    monkeypatch.setattr(report, "Environment", careless)
    monkeypatch.setattr(report, "page", report.page.__wrapped__)  # not the one that was compiled before
    page.write_text(report.render(shown).replace("Content-Security-Policy", "X"), encoding="utf-8")
    browser.get(page.as_uri())
    with pytest.raises(AssertionError):
        stays_text(browser)
    with pytest.raises(AssertionError):
        asks_nobody(browser)


def test_a_report_that_repeats_what_engage_says_is_found_out(
    reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds_nobody(report.render(reported.facts("second")))
    monkeypatch.setattr(told, "masked", lambda words: words)
    with pytest.raises(AssertionError):
        finds_nobody(report.render(reported.facts("second")))


# Anybody can read it


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 375), ("dark", 375)])
def test_anybody_can_read_it(browser: webdriver.Chrome, reported: Reported, scheme: str, width: int) -> None:  # noqa: F811
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    narrow(browser, width)
    for name in ("second", "brake"):
        browser.get(reported.pages[name].as_uri())
        assert browser.execute_script(CONTRAST) == []
        assert wider_than_window(browser) == 0
        assert violations(browser) == []


def test_tables_have_captions_and_charts_words(browser: webdriver.Chrome, reported: Reported) -> None:  # noqa: F811
    browser.get(reported.pages["second"].as_uri())
    bare = """
        return [...document.querySelectorAll("table")].filter(t => !t.caption || !t.querySelector("th[scope=col]")
            || [...t.tBodies[0].rows].some(r => !r.querySelector("th[scope=row]"))).length
        + [...document.querySelectorAll("svg")].filter(s => !s.getAttribute("aria-label")).length
        + [...document.querySelectorAll("a[href^='#']")].filter(a => !document.querySelector(a.hash)).length
    """
    assert browser.execute_script(bare) == 0
    assert len(browser.find_elements(By.TAG_NAME, "svg")) > 30


def test_the_check_of_accessibility_sees_what_is_wrong(browser: webdriver.Chrome) -> None:  # noqa: F811
    browser.get("data:text/html,<html><img src='data:,'><p style='color:rgb(200,200,200)'>faint</p></html>")
    assert {"image-alt", "html-has-lang"} <= {one for one, _ in violations(browser)}


@pytest.mark.parametrize("width", [320, 768])
def test_it_fits_whatever_the_width(browser: webdriver.Chrome, reported: Reported, width: int) -> None:  # noqa: F811
    narrow(browser, width)
    browser.get(reported.pages["second"].as_uri())
    assert wider_than_window(browser) == 0


def test_it_can_be_printed_and_screenshots_are_kept(browser: webdriver.Chrome, reported: Reported) -> None:  # noqa: F811
    OUTPUT.mkdir(parents=True, exist_ok=True)
    browser.get(reported.pages["second"].as_uri())
    browser.save_screenshot(str(OUTPUT / "report.png"))
    narrow(browser, 375)
    browser.save_screenshot(str(OUTPUT / "report-phone.png"))
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    narrow(browser, 700)  # a sheet of A4 within its margins
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert wider_than_window(browser) == 0
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"])
    assert printed.startswith(b"%PDF")
    (OUTPUT / "report.pdf").write_bytes(printed)
