"""Promotions of the sandbox by the tap into the target: the data source, held against the sandbox's own catalogue.

What is expected is worked out from the sandbox's data in plain Python, which shares no code with tap or target.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest
from piano_engage_sandbox.catalogue import ALL_TERMS
from piano_engage_sandbox.piano.promotions import ALL, Promotions
from piano_engage_sandbox.testing import serving

if TYPE_CHECKING:
    from piano_engage_sandbox.piano.promotions import Code, Promotion
    from piano_engage_sandbox.server import Server

ZONE = ZoneInfo("Europe/Amsterdam")
STREAMS = ("subscription_log", "promotions", "promo_codes", "terms")
SHOWN = {one.term_id: one.name for one in ALL_TERMS if one.renews}
TEMPLATE = "https://www.example.com/checkout?term={term_id}&promo={code}"


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


class Pair:
    """Tap and target over the API, with a state that is kept between runs."""

    def __init__(self, server: Server, folder: Path, **settings: Any) -> None:  # noqa: ANN401 - settings
        """Write the settings and a catalog that selects what is needed."""
        self.server, self.folder, self.settings = server, folder, settings
        lines = server.environment()
        names = ("aid", "api_token", "api_url", "reports_url", "timezone")
        config = {name: lines[f"TAP_PIANO_{name.upper()}"] for name in names}
        config |= {"requests_per_second": 0, "retry_wait": 0, "export_poll": 0.02, "rejects_path": str(folder / "r")}
        (folder / "tap.json").write_text(json.dumps(config))
        tap = [program("tap-piano"), "--config", str(folder / "tap.json")]
        found = json.loads(subprocess.run([*tap, "--discover"], capture_output=True, check=True).stdout)
        for stream in found["streams"]:
            for entry in stream["metadata"]:
                if not entry["breadcrumb"]:
                    entry["metadata"]["selected"] = stream["tap_stream_id"] in STREAMS
        (folder / "catalog.json").write_text(json.dumps(found))
        self.tap = [*tap, "--catalog", str(folder / "catalog.json")]

    @property
    def now(self) -> datetime:
        """The sandbox's clock."""
        return datetime.fromtimestamp(self.server.control("GET", "clock")["now"], UTC)

    def run(self, script: str = "") -> dict[str, Any]:
        """Pipe the tap into the target, and give the target's summary; *script* puts doubles in place before."""
        folder, state = self.folder, self.folder / "state.json"
        settings = {
            "ledger": str(folder / "ledger.duckdb"), "runs_path": str(folder / "runs"), "traits": "all",
            "output_path": str(folder / "ingest"), "timezone": "Europe/Amsterdam", "as_of": self.now.isoformat(),
            "data_sources_path": str(folder / "data"), "checkout_url": TEMPLATE,
        } | self.settings  # fmt: skip
        (folder / "target.json").write_text(json.dumps(settings))
        command = [*self.tap, *(["--state", str(state)] if state.exists() else [])]
        read = subprocess.run(command, capture_output=True, check=False)
        assert read.returncode == 0, read.stderr.decode()
        double = folder / "double.py"
        double.write_text(
            f"{script}\nfrom target_recurly_engage.target import TargetRecurlyEngage\nTargetRecurlyEngage.cli()\n"
        )
        target = [sys.executable, str(double), "--config", str(folder / "target.json")]
        done = subprocess.run(target, input=read.stdout, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        state.write_bytes(done.stdout.splitlines()[-1])
        newest = max((folder / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return dict(json.loads(newest.read_text()))

    @property
    def offers(self) -> list[dict[str, str]]:
        """The data source, as a spreadsheet reads it."""
        with (self.folder / "data" / "offers.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def day(moment: int | None, *, less: timedelta = timedelta(0)) -> str:
    return "" if moment is None else (datetime.fromtimestamp(moment, UTC) - less).astimezone(ZONE).date().isoformat()


def expected(server: Server, now: datetime, *, every: bool) -> list[dict[str, str]]:
    """What the sandbox's catalogue says is valid, as rows of the data source."""
    (application,) = server.sandbox.piano.values()
    shelf = server.sandbox.part(Promotions).of(application)
    rows = []
    for one in sorted(ALL, key=lambda one: one.promotion_id):
        starts, ends = shelf.dates(one)
        stamp, codes = int(now.timestamp()), shelf.codes(one)
        if (starts is not None and starts > stamp) or (ends is not None and ends <= stamp):
            continue
        if one.allowed is not None and shelf.uses(one) >= one.allowed:
            continue
        free = sorted(code.text for code in codes if code.state == "active")
        if one.prefix and not free:
            continue
        shown = [one.code] if not one.prefix else free if every else [""]
        rows += [row(one, code, (starts, ends), codes) for code in shown]
    return rows


def wanted(pair: Pair, *, every: bool) -> list[dict[str, str]]:
    """The same, asked where the sandbox lives."""
    now = pair.now
    return pair.server.call(lambda: expected(pair.server, now, every=every))


def row(one: Promotion, code: str, dates: tuple[int | None, int | None], codes: list[Code]) -> dict[str, str]:
    terms = sorted(one.terms or SHOWN)
    link = f"https://www.example.com/checkout?term={quote(terms[0], safe='')}&promo={quote(code, safe='')}"
    used = sum(each.state == "used" for each in codes)
    return {
        "code": code, "promotion_id": one.promotion_id, "promotion_name": one.name,
        "discount": f"{one.fixed[0][1] / 100:.2f} {one.fixed[0][0]}" if one.fixed else f"{one.percentage:g}%",
        "discount_kind": "amount" if one.fixed else "percent",
        "discount_value": f"{one.fixed[0][1] / 100:g}" if one.fixed else f"{one.percentage:g}",
        "currency": one.fixed[0][0] if one.fixed else "",
        "discounts_by_currency": " / ".join(f"{cents / 100:.2f} {currency}" for currency, cents in one.fixed),
        "valid_from": day(dates[0]), "valid_until": day(dates[1], less=timedelta(microseconds=1)),
        "remaining_uses": "" if one.allowed is None else str(one.allowed - used),
        "all_terms": str(not one.terms).lower(), "term_ids": ",".join(terms),
        "term_names": "; ".join(SHOWN[term] for term in terms),
        "new_customers_only": str(one.new_customers_only).lower(), "checkout_link": link if code else "",
    }  # fmt: skip


def test_the_data_source_is_the_sandboxs_catalogue_day_after_day(tmp_path: Path) -> None:
    segments = [{"name": "spring", "filters": [{"promotion": "PRSPRING0050"}]}]
    with serving(rows=120) as server:
        pair = Pair(server, tmp_path, segments=segments, single_use_codes="all")
        told = pair.run()
        assert told["catalogue"]["promotions"]["came"] == len(ALL)
        assert pair.offers == wanted(pair, every=True)
        assert len(pair.offers) > 1000
        pair.settings["single_use_codes"] = "promotion"
        pair.run()
        before = pair.offers
        assert before == wanted(pair, every=False)
        again = pair.run()
        assert (again["data_sources"][0]["changed"], pair.offers) == (False, before)
        assert again["catalogue"].get("promotions", {"came": 0})["came"] == 0, "the tap sends what changed, and no more"
        server.control("POST", "clock", {"advance": "3d"})  # one has ended, another one has begun
        later = pair.run()
        assert later["data_sources"][0]["changed"]
        assert pair.offers == wanted(pair, every=False)
        ids = [{one["promotion_id"] for one in some} for some in (before, pair.offers)]
        assert (ids[0] - ids[1], ids[1] - ids[0]) == ({"PRLASTDAY002"}, {"PRTOM0RR0001"})
        assert 0 < later["segments"]["spring"]["readers"] < later["users"]["total"]


ALL_VALID = """
from target_recurly_engage import promotions
promotions.PROMOTIONS = promotions.PROMOTIONS.replace("END AS why_not", "ELSE NULL END || NULL AS why_not")
"""


def test_a_target_that_takes_every_promotion_for_valid_is_found_out(tmp_path: Path) -> None:
    with serving(rows=20) as server:
        pair = Pair(server, tmp_path)
        pair.run(ALL_VALID)
        assert len(pair.offers) == len(ALL)
        with pytest.raises(AssertionError):
            assert pair.offers == wanted(pair, every=False)
