"""One bad record of what the publisher sells: it is rejected or blanked, and what leaves is JSON and Unicode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tap_piano.client import key_of
from tap_piano.fields import PROMOTIONS
from tap_piano.records import Reader, readable, schema_of

from tests.tap.test_bad_days_publisher import fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.server import Server

    from tests.tap.conftest import Tap

CASES = Path(__file__).with_name("cases")
WANTED = {"aid", *schema_of(PROMOTIONS)["properties"]}
GOOD = {"promotion_id": "PR1", "name": "Spring", "status": "active", "end_date": 1800000000, "uses": 1}


def strict(text: str) -> Any:  # noqa: ANN401 - JSON
    """Parse what JSON has, and nothing else."""

    def no_constant(word: str) -> None:
        raise AssertionError(word)

    found = json.loads(text, parse_constant=no_constant)
    json.dumps(found, ensure_ascii=False).encode()
    return found


def answer(*items: object) -> str:
    listed = {"code": 0, "ts": 1796072007, "limit": 100, "offset": 0, "total": len(items), "count": len(items)}
    return json.dumps(listed | {"promotions": items})


@pytest.mark.parametrize(
    "case", ["10-promotion-list-lone-surrogate", "10-promotion-list-nan", "10-promotion-list-nan-as-text"]
)
def test_a_promotion_from_the_field_leaves_valid_json_or_is_named(
    piano: Server, settings: dict[str, Any], sync: Tap, select: Callable[..., Any], case: str
) -> None:
    rejected = "nan" in case
    body = (CASES / f"{case}.json").read_text(encoding="utf-8")
    fault(piano, path="*/promotion/list", status=200, body=body, headers={"Content-Type": "application/json"})
    run = sync(None, catalog=select("promotions"), **settings)
    for line in run.out.splitlines():
        strict(line)
    assert len(run.records) == (not rejected)
    assert "PRX1" in run.log
    assert ("promotions: 1 record(s) are rejected" in run.log) is rejected
    if not rejected:
        assert run.records[0]["promotion_name"] is None
        assert run.records[0]["unknown_fields"]["name"] == "Spring \ufffd"


def test_bad_items_of_a_list_cost_neither_the_others_nor_the_run(
    piano: Server, settings: dict[str, Any], sync: Tap, select: Callable[..., Any]
) -> None:
    items = [
        GOOD, None, "x", 5, [], {}, GOOD | {"promotion_id": ["PR2"]}, GOOD | {"promotion_id": {"a": 1}},
        GOOD | {"promotion_id": "PR3"}, GOOD | {"promotion_id": "PR3"}, GOOD | {"promotion_id": True},
    ]  # fmt: skip
    fault(piano, path="*/promotion/list", status=200, body=answer(*items), headers={"Content-Type": "application/json"})
    run = sync(None, catalog=select("promotions"), **settings)
    assert [record["promotion_id"] for record in run.records] == ["PR1", "PR3"]
    assert "promotions: 8 record(s) are rejected" in run.log


BAD = {
    "end_date": [99999999999999, -9999999999999, "infinity", "0001-01-01", float("inf"), True, {"a": 1}, "soon"],
    "uses": [1.5, "many", 1e300, 10**30, float("nan"), "nan", [1], "1_000"],
    "percentage_discount": [float("nan"), "NaN", float("-inf"), 1e300, "1e999", {"a": 1}],
    "deleted": ["perhaps", 2, [True]],
    "status": [["active"], {"a": 1}, "act\ud83d", "act\x00"],
    "promotion_id": [None, "", ["PR1"], 12345.0, "null", "PR1\ud83d", "#N/A", float("nan"), "a\x00b"],
}


@pytest.mark.parametrize("name", BAD)
def test_a_record_is_rejected_where_a_blank_would_allow_more_than_piano_does(name: str) -> None:
    for value in BAD[name]:
        reader = Reader(PROMOTIONS, WANTED, "promotion_id")
        assert reader.record(GOOD | {name: value}, aid="A1") is None, value
        assert (reader.rejected, list(reader.bad)) == (1, [name])
        assert reader.bad[name] == ([] if name == "promotion_id" else ["PR1"])


@pytest.mark.parametrize(
    "value",
    [
        "x\ud83d",
        "\udfffx",
        "nul\x00",
        ["a"],
        {"a": float("nan")},
        [[["x" * 10, float("inf")]]],
        {"\ud83d": 1},
        float("nan"),
    ],
)
def test_any_other_value_that_is_none_is_blank_and_kept_readable(value: object) -> None:
    reader = Reader(PROMOTIONS, WANTED, "promotion_id")
    record = reader.record(GOOD | {"name": value, "brand_new": {"deep": value}}, aid="A1")
    assert record is not None
    strict(json.dumps(record))
    assert record["promotion_name"] is None
    assert (reader.rejected, reader.bad) == (0, {"promotion_name": ["PR1"]})


def test_what_is_readable_stays_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "é😀"], "b": {"c": "d"}}
    assert readable(value) == value
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    assert len(json.dumps(readable(deep))) < 200


def test_a_reader_that_passes_anything_on_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken double: values leave as Piano wrote them."""
    monkeypatch.setattr("tap_piano.records.CONVERSIONS", dict.fromkeys(_kinds(), lambda value: value))
    record = Reader(PROMOTIONS, WANTED, "promotion_id").record(GOOD | {"percentage_discount": float("nan")}, aid="A1")
    with pytest.raises(AssertionError, match="NaN"):
        strict(json.dumps(record))


def _kinds() -> list[Any]:
    return [field.type for field in PROMOTIONS]


def test_an_id_that_is_none_tells_nothing_apart() -> None:
    values: list[object] = ["a", 5, None, "", True, [], {}, 1.5]
    assert [key_of({"id": one}, "id") for one in values] == ["a", 5, None, None, None, None, None, None]
    assert key_of({}, "id") is None
