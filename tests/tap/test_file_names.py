"""Names of exports and folders are data: the file that is named is read, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tap.conftest import Exports, MakeRow, Tap

NAMES = (
    "log[1].csv", "log?.csv", "log*.csv", "[l]og1.csv", "**.csv", "log{1,2}.csv", "it's.csv", "a\\b.csv", "a\\b[1].csv",
)  # fmt: skip


@pytest.fixture
def folder(exports: Exports, make_row: MakeRow) -> Path:
    """Beside each file of a strange name, one that its name as a pattern would find."""
    for number, name in enumerate(["log1.csv", "log2.csv", "log.csv", *NAMES]):
        exports.csv([make_row(number)], name=name)
    return exports.folder


@pytest.mark.parametrize("name", NAMES)
def test_the_named_file_is_read_and_no_other(name: str, folder: Path, sync: Tap) -> None:
    run = sync(folder / name)
    assert [record["user_id"] for record in run.records] == [f"user-{NAMES.index(name) + 3}"]


def test_each_file_of_a_folder_is_read_once(folder: Path, sync: Tap) -> None:
    assert len(sync(folder).records) == len(NAMES) + 3


@pytest.mark.parametrize("place", ["in[1]", "in*", "user_id=7", "a/in[1]/b", "subscription_id=x/in?"])
def test_names_of_folders_are_no_patterns_and_no_columns(
    place: str, exports: Exports, make_row: MakeRow, sync: Tap
) -> None:
    exports.csv([make_row(9)], name="in1/log.csv")
    exports.csv([make_row(1)], name=f"{place}/log.csv")
    for path in (exports.folder / place / "log.csv", exports.folder / place, exports.folder / place / "*.csv"):
        assert [record["user_id"] for record in sync(path).records] == ["user-1"]


@pytest.mark.parametrize("place", ["tmp[1]", "user_id=7", "term_name=x"])
def test_the_folder_for_temporary_files_may_have_any_name(
    place: str, exports: Exports, make_row: MakeRow, sync: Tap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = exports.csv([make_row(1, Term_name="Monthly"), make_row(2, Term_name="Yearly")])
    monkeypatch.setattr("tap_piano.base.gettempdir", lambda: str(tmp_path / place))
    assert [(one["user_id"], one["term_name"]) for one in sync(path).records] == [
        ("user-1", "Monthly"),
        ("user-2", "Yearly"),
    ]


def test_a_name_that_is_not_utf_8_is_read(exports: Exports, make_row: MakeRow, sync: Tap) -> None:
    path = exports.csv([make_row(1)])
    path.rename(path.with_name("l\udcffg.csv"))
    assert len(sync(exports.folder).records) == 1
