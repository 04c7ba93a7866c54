"""The page in a real browser: Chromium without a window, driven by its own driver. Nothing is fetched for it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from piano_engage_sandbox.engage.store import Engage
from piano_engage_sandbox.testing import serving
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server
    from selenium.webdriver.remote.webelement import WebElement

pytestmark = pytest.mark.xdist_group("browser")  # one browser at a time, whatever the number of workers

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "output" / "sandbox-page"
SCRIPT = ROOT / "scripts" / "browser.sh"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--hide-scrollbars",
)  # fmt: skip
SEGMENTS = [{"name": "In grace", "filters": [{"trait": "lifecycle_stage", "values": ["grace"]}]}]
PLANTED = "<script>document.title='planted'</script><img src=x onerror=\"document.title='planted'\">"


CONTRAST = """
const channel = c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
const colour = text => text.match(/[0-9.]+/g).map(Number);
const behind = e => {
  for (; e; e = e.parentElement) {
    const found = colour(getComputedStyle(e).backgroundColor);
    if (found.length < 4 || found[3] > 0) return found;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
};
const faint = [];
for (const e of document.querySelectorAll("body *")) {
  if (e.closest("svg") || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  const [a, b] = [light(colour(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) faint.push({text: e.textContent.trim().slice(0, 40), ratio: ratio.toFixed(2)});
}
return faint;
"""
"""Lists texts whose contrast is below 4.5 to 1, which WCAG asks of small text."""


def program_and_driver() -> list[str]:
    """Find the browser, or bring it; fail with what to do, or skip where that was asked for."""
    if os.environ.get("SANDBOX_NO_BROWSER") == "1":
        pytest.skip("SANDBOX_NO_BROWSER=1")
    found = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.fail(found.stderr, pytrace=False)
    return found.stdout.splitlines()[-2:]


@contextmanager
def started(profile: Path, *flags: str) -> Iterator[webdriver.Chrome]:
    program, driver = program_and_driver()
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={profile}", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    home = {**os.environ, "HOME": str(profile)}  # else it leaves a folder in the caller's
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        home.pop(name, None)
    browser = webdriver.Chrome(options=options, service=Service(executable_path=driver, env=home))
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with started(tmp_path_factory.mktemp("profile"), "--window-size=1440,1000") as browser:
        yield browser


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """The browser as if it had just been started: wide, scripts allowed, its logs empty."""
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chromium.get("about:blank")
    chromium.get_log("performance")
    chromium.get_log("browser")
    yield chromium
    chromium.get("about:blank")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Three users, written as a client would write them."""
    with serving() as served:
        served.sandbox.part(Engage).define_segments(SEGMENTS)
        write(served, "reader-1", {"lifecycle_stage": "grace", "auto_renew": False, "total_charged": 12.5})
        write(served, "reader-2", {"lifecycle_stage": "trial", "trial_end_date": "2026-04-01"})
        write(served, f"u/{PLANTED}", {"lifecycle_stage": "trial", f"k{PLANTED}": f"v{PLANTED}", "long": "x" * 500})
        yield served


def write(served: Server, user: str, properties: dict[str, Any]) -> None:
    box = served.sandbox
    body = json.dumps({"id": box.app_id, "user_id": user, "properties": properties})
    secret = base64.b64encode(f"{box.app_id}:{box.api_key}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {secret}"}
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    try:
        connection.request("POST", "/ingest/property", body, headers)
        assert connection.getresponse().status == 200
    finally:
        connection.close()


def no_script(browser: webdriver.Chrome) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get("data:text/html,<title>off</title><script>document.title='on'</script>")
    assert browser.title == "off", "scripts still run: what follows would show nothing"


def find_user(browser: webdriver.Chrome, words: str, *, inside: str = "main") -> None:
    """Search as a person does: type, press Enter, wait for the answer."""
    field = browser.find_element(By.CSS_SELECTOR, f"{inside} input[name=q]")
    field.clear()
    field.send_keys(words, Keys.ENTER)
    WebDriverWait(browser, 30).until(lambda b: "q=" in b.current_url and b.find_elements(By.ID, "found"))


def row_of(browser: webdriver.Chrome, section: str, name: str) -> WebElement:
    for row in browser.find_elements(By.CSS_SELECTOR, f"#{section} tbody tr"):
        if row.find_element(By.TAG_NAME, "th").text.splitlines()[0] == name:
            return row
    pytest.fail(f"no row {name} in {section}: {browser.find_element(By.ID, section).text}")


def hosts_asked(browser: webdriver.Chrome) -> set[str | None]:
    """List the hosts the page itself asked for anything."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return {urlsplit(a).netloc for a in addresses if urlsplit(a).scheme not in {"data", "about"}}


def wider_than_window(browser: webdriver.Chrome) -> int:
    """Give by how many pixels the page can be scrolled sideways."""
    return int(browser.execute_script(
        "const d = document.documentElement; return Math.max(d.scrollWidth, document.body.scrollWidth) - innerWidth"
    ))  # fmt: skip


def test_shows_what_was_written(browser: webdriver.Chrome, server: Server) -> None:
    browser.get(server.url)
    assert browser.title == "Overview · Engage sandbox"
    stage = row_of(browser, "traits", "lifecycle_stage").text.split()
    assert stage[:4] == ["lifecycle_stage", "string", "multi-select", "3"]
    assert stage[4:] == ["trial", "67", "%", "grace", "33", "%"]
    assert row_of(browser, "traits", "total_charged").find_element(By.CLASS_NAME, "tag").text == "number"
    assert row_of(browser, "segments", "In grace").text.splitlines()[-1].split()[-1] == "1"
    assert row_of(browser, "users", "reader-1").is_displayed()
    write(server, "reader-1", {"written_later": 1})
    browser.refresh()
    assert row_of(browser, "traits", "written_later").is_displayed()


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("inside", ["header", "main"])
def test_finds_a_user_by_the_form(browser: webdriver.Chrome, server: Server, inside: str, *, scripts: bool) -> None:
    if not scripts:
        no_script(browser)
    browser.get(f"{server.url}/users")
    find_user(browser, "reader-2", inside=inside)
    assert browser.find_element(By.ID, "found").text == "1 found"
    browser.find_element(By.LINK_TEXT, "reader-2").click()
    assert browser.find_element(By.TAG_NAME, "h1").text == "reader-2"
    row = row_of(browser, "traits", "trial_end_date").text
    assert row == "trial_end_date 2026-04-01 date API 2026-03-28 06:00:00"


def test_finds_users_by_a_value_and_leads_to_their_segment(browser: webdriver.Chrome, server: Server) -> None:
    browser.get(server.url)
    find_user(browser, "lifecycle_stage=grace", inside="header")
    browser.find_element(By.LINK_TEXT, "reader-1").click()
    browser.find_element(By.CSS_SELECTOR, "#segments").find_element(By.LINK_TEXT, "In grace").click()
    assert browser.find_element(By.TAG_NAME, "h1").text == "In grace"
    assert browser.find_element(By.ID, "rules").text.splitlines()[-1] == "lifecycle_stage include grace"
    assert browser.find_element(By.LINK_TEXT, "reader-1").is_displayed()


def test_a_trait_leads_to_its_values_and_those_to_users(browser: webdriver.Chrome, server: Server) -> None:
    browser.get(server.url)
    browser.find_element(By.LINK_TEXT, "lifecycle_stage").click()
    browser.find_element(By.LINK_TEXT, "grace").click()
    assert browser.find_element(By.ID, "found").text == "1 found"


def test_can_be_used_by_keyboard(browser: webdriver.Chrome, server: Server) -> None:
    browser.get(server.url)
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the content"
    assert browser.switch_to.active_element.is_displayed()
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.current_url.endswith("#content")


def addresses(browser: webdriver.Chrome, server: Server) -> list[str]:
    """One address of each kind, taken from the links of the page, the user with the ugly name among them."""
    browser.get(f"{server.url}/users")
    links = [str(link.get_attribute("href")) for link in browser.find_elements(By.CSS_SELECTOR, "a[href]")]
    ugly = next(link for link in links if "/users/u%2F" in link)
    paths = ("/", "/?refresh=600", "/traits", "/traits/lifecycle_stage", "/segments", "/segments/In%20grace", "/files")
    return [*(server.url + path for path in paths), f"{server.url}/requests", f"{server.url}/users", ugly]


def test_asks_no_other_host_and_has_no_errors(browser: webdriver.Chrome, server: Server) -> None:
    for address in addresses(browser, server):
        browser.get(address)
    assert hosts_asked(browser) == {urlsplit(server.url).netloc}
    assert browser.get_log("browser") == []


def test_the_check_of_hosts_sees_another_host(browser: webdriver.Chrome, server: Server) -> None:
    other = server.url.replace("127.0.0.1", "localhost")
    browser.get(f"data:text/html,<img src={other}/nothing.png>")
    assert hosts_asked(browser) == {urlsplit(other).netloc}


def test_what_was_written_does_not_run(browser: webdriver.Chrome, server: Server) -> None:
    for address in addresses(browser, server):
        browser.get(address)
        assert browser.title != "planted"
        assert browser.find_elements(By.CSS_SELECTOR, "script, img") == []
    browser.get(addresses(browser, server)[-1])
    assert browser.find_element(By.TAG_NAME, "h1").text == f"u/{PLANTED}"
    assert f"v{PLANTED}" in browser.find_element(By.ID, "traits").text


def test_the_policy_stops_what_slips_through(browser: webdriver.Chrome, server: Server) -> None:
    browser.get(server.url)
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = \"document.title = 'planted'\";"
        "document.body.append(s); document.body.insertAdjacentHTML('beforeend', '<b onclick=1 style=color:red>x</b>')"
    )
    assert browser.title == "Overview · Engage sandbox"
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


@pytest.mark.parametrize("width", [320, 400, 768])
def test_fits_a_narrow_window(browser: webdriver.Chrome, server: Server, width: int) -> None:
    for address in addresses(browser, server):
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(address)
        assert browser.execute_script("return innerWidth") == width
        assert wider_than_window(browser) == 0, address


def test_the_check_of_width_sees_what_is_too_wide(browser: webdriver.Chrome) -> None:
    browser.get("data:text/html,<div style='width:5000px'>x</div>")
    assert wider_than_window(browser) > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(browser: webdriver.Chrome, server: Server, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for address in addresses(browser, server):
        browser.get(address)
        assert browser.execute_script(CONTRAST) == [], address


def test_the_check_of_contrast_sees_what_is_faint(browser: webdriver.Chrome) -> None:
    browser.get("data:text/html,<body style='background:rgb(255,255,255)'><p style='color:rgb(170,170,170)'>faint</p>")
    assert [found["text"] for found in browser.execute_script(CONTRAST)] == ["faint"]


def test_screenshots_are_kept(browser: webdriver.Chrome, server: Server) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name, path in {"overview": "/", "users": "/users", "user": "/users/reader-1", "requests": "/requests"}.items():
        browser.get(server.url + path)
        picture = OUTPUT / f"{name}.png"
        assert browser.save_screenshot(str(picture))
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def million() -> Iterator[Server]:
    """33,334 users with 30 traits each: some with two values, some with thousands, one with a value for everybody."""
    with serving() as served:
        engage = served.sandbox.part(Engage)
        engage.define_segments(SEGMENTS)
        kinds = (2, 3, 6, 50, 900, 9000)
        for n in range(33_334):
            traits = {f"trait_{k:02}": n * 7919 % kinds[k % len(kinds)] for k in range(28)}
            stage = "grace" if n % 25 == 0 else "active"
            engage.write(f"reader-{n:06}", {"lifecycle_stage": stage, "id": f"s{n}", **traits}, source="csv")
        assert sum(trait.users for trait in engage.traits.values()) == 1_000_020
        OUTPUT.mkdir(parents=True, exist_ok=True)
        (OUTPUT / "million.txt").unlink(missing_ok=True)
        yield served


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "/", "/traits", "/traits/id", "/segments/In%20grace?page=20", "/users", "/users?page=600", "/users?q=9",
        "/users?q=lifecycle_stage=grace", "/users/reader-033333", "/requests",
    ],
)  # fmt: skip
def test_stays_small_at_a_million_traits(browser: webdriver.Chrome, million: Server, path: str) -> None:
    """What makes it quick is that no page lists everything. The times are kept beside the screenshots, not judged."""
    spent = []
    for _ in range(3):
        browser.get(million.url + path)
        spent.append(browser.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd"))
    assert len(browser.page_source) < 400_000
    assert browser.find_elements("css selector", "main table")
    with (OUTPUT / "million.txt").open("a", encoding="utf-8") as kept:
        kept.write(f"{min(spent):8.1f} ms {path}\n")


def test_without_a_browser_says_what_to_do(tmp_path: Path) -> None:
    for command in ("id", "cat"):
        (tmp_path / command).symlink_to(str(shutil.which(command)))
    run = subprocess.run(["/bin/sh", SCRIPT], capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert run.returncode == 1
    assert "SANDBOX_NO_BROWSER=1" in run.stderr
