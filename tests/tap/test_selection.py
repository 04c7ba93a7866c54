"""Which columns leave: those of the setting `columns`; a catalog narrows, and nothing but the setting widens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tap_piano import rejects
from tap_piano.columns import BY_NAME, KNOWN, TRAITS
from tap_piano.selection import Selection
from tap_piano.tap import TapPiano

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.tap.conftest import Exports, MakeRow, Run, Tap

PERSONAL = [column for column in KNOWN if column.personal]
MARK = "marked-"


def catalog_of(export: Path, choose: Callable[[str], bool | None], **settings: str) -> dict[str, Any]:
    """The discovered catalog with the selection of each property chosen by its name."""
    catalog: dict[str, Any] = TapPiano(config={"export_path": str(export), **settings}).catalog_dict
    for entry in catalog["streams"][0]["metadata"]:
        if not entry["breadcrumb"]:
            entry["metadata"]["selected"] = True
        elif (chosen := choose(entry["breadcrumb"][1])) is not None:
            entry["metadata"]["selected"] = chosen
    return catalog


def everything(_name: str) -> bool:
    """What Meltano selects unless told otherwise."""
    return True


def columns_of(run: Run) -> set[str]:
    (schema,) = run.of_type("SCHEMA")
    assert set(schema["schema"]["properties"]) == set(run.records[0])
    return set(run.records[0])


@pytest.fixture
def full_export(exports: Exports, make_row: MakeRow) -> Path:
    """An export with all 99 columns, one unknown, and marks in the personal ones."""
    marks = {column.header: f"{MARK}{column.name}" for column in PERSONAL}
    plain = {column.header: "" for column in KNOWN if column.header not in make_row(1)}
    rows = [{**make_row(number), **plain, **marks, "Shoe size": "42"} for number in range(200)]
    rows[-1]["Days subscribed"] = "x"
    return exports.csv(rows)


DEFAULT = {*TRAITS, "modify_time"}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("traits", DEFAULT),
        ("all", {*BY_NAME, "shoe_size"}),
        (["traits", "User email"], {*DEFAULT, "user_email"}),
        ("traits,shoe_size", {*DEFAULT, "shoe_size"}),
        ("Term name, Auto renew", {"subscription_id", "user_id", "modify_time", "term_name", "auto_renew"}),
        ([], {"subscription_id", "user_id", "modify_time"}),
    ],
)
def test_setting_columns(setting: str | list[str], expected: set[str], full_export: Path, sync: Tap) -> None:
    assert columns_of(sync(full_export, columns=setting)) == expected
    assert columns_of(sync(full_export, columns=setting, aid="APP")) == {*expected, "aid"}


def check_no_personal_data_leaves(sync: Tap, export: Path) -> None:
    """Run as Meltano would, and look for the marks in all that the run leaves."""
    run = sync(export, catalog=catalog_of(export, everything))
    assert columns_of(run) == DEFAULT
    kept = run.out.decode() + run.log + "".join(path.read_text() for path in run.rejects_folder.iterdir())
    assert MARK not in kept


def test_catalog_that_selects_everything_brings_no_personal_data(full_export: Path, sync: Tap) -> None:
    check_no_personal_data_leaves(sync, full_export)


def test_personal_test_notices_a_tap_that_lets_the_catalog_widen(
    full_export: Path, sync: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Selection, "apply", lambda *_, **__: None)
    with pytest.raises(AssertionError):
        check_no_personal_data_leaves(sync, full_export)


def check_rejects_show_no_personal_value(sync: Tap, export: Path) -> None:
    run = sync(export, columns="all")
    assert len(run.rejects) == 1
    assert MARK not in run.log + "".join(path.read_text() for path in run.rejects_folder.iterdir())


def test_rejects_show_no_personal_value(full_export: Path, sync: Tap) -> None:
    check_rejects_show_no_personal_value(sync, full_export)


def test_rejects_test_notices_a_tap_without_mask(full_export: Path, sync: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejects, "_mask", lambda _name, value: value)
    with pytest.raises(AssertionError):
        check_rejects_show_no_personal_value(sync, full_export)


def test_selected_personal_columns_are_named_in_a_warning(full_export: Path, sync: Tap) -> None:
    run = sync(full_export, columns=["traits", "User email", "Phone"])
    assert "personal columns are selected: phone, user_email" in run.log
    assert "personal columns" not in sync(full_export).log


def test_catalog_narrows(full_export: Path, sync: Tap) -> None:
    catalog = catalog_of(full_export, lambda name: name in {"term_name", "phone"})
    assert columns_of(sync(full_export, catalog=catalog)) == {"subscription_id", "user_id", "modify_time", "term_name"}


def test_catalog_cannot_take_away_what_the_key_and_the_bookmark_need(full_export: Path, sync: Tap) -> None:
    run = sync(full_export, catalog=catalog_of(full_export, lambda _: False, aid="APP"), aid="APP")
    assert columns_of(run) == {"aid", "subscription_id", "user_id", "modify_time"}


def test_stream_that_is_not_selected_sends_nothing(full_export: Path, sync: Tap) -> None:
    catalog = catalog_of(full_export, everything)
    catalog["streams"][0]["metadata"] = [
        {"breadcrumb": [], "metadata": {"selected": False}} if not entry["breadcrumb"] else entry
        for entry in catalog["streams"][0]["metadata"]
    ]
    assert sync(full_export, catalog=catalog).types == []


def test_untouched_catalog_changes_nothing(full_export: Path, sync: Tap) -> None:
    plain = sync(full_export)
    assert sync(full_export, catalog=catalog_of(full_export, lambda _: None)).records == plain.records


def test_all_columns_are_discoverable_and_the_personal_ones_not_selected(full_export: Path) -> None:
    catalog = TapPiano(config={"export_path": str(full_export), "aid": "APP"}).catalog_dict
    (entry,) = catalog["streams"]
    assert set(entry["schema"]["properties"]) == {"aid", *BY_NAME, "shoe_size"}
    selected = {
        item["breadcrumb"][1]
        for item in entry["metadata"]
        if item["breadcrumb"]
        and (item["metadata"].get("selected-by-default") or item["metadata"]["inclusion"] == "automatic")
    }
    assert selected == {"aid", *DEFAULT}
    assert entry["key_properties"] == ["aid", "subscription_id"]


def test_catalog_of_another_export_with_modify_time_still_works(
    full_export: Path, exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    other = exports.csv([make_row(1, Term_name="a")], name="other.csv")
    run = sync(other, catalog=catalog_of(full_export, everything))
    assert run.types[-2:] == ["ACTIVATE_VERSION", "STATE"]
    assert columns_of(run) == {"subscription_id", "user_id", "term_name"}
