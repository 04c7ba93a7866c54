"""An export of the Reports API whose columns are not those that were expected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_common.stops import ConfigRefused, InputRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.server import Server

    from tests.tap.conftest import Run, Tap

MODIFIED = "2026-03-20 10:00:00 +0100"


@pytest.fixture
def serve_file(piano: Server) -> Callable[[str], None]:
    """Put a file in place of every export."""

    def serve(content: str) -> None:
        fault = {"part": "reports", "path": "/rest/export/files/*", "status": 200, "body": content}
        piano.control("POST", "faults", fault)

    return serve


@pytest.fixture
def log_only(select: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return select("subscription_log")


def schema(run: Run) -> dict[str, Any]:
    (message,) = run.of_type("SCHEMA")
    return dict(message["schema"]["properties"])


@pytest.mark.parametrize("with_catalog", [False, True], ids=["no catalog", "catalog"])
def test_a_column_that_is_gone_is_not_in_the_schema_and_is_told(
    with_catalog: bool,  # noqa: FBT001 - a parameter of the test
    serve_file: Callable[[str], None],
    settings: dict[str, Any],
    sync: Tap,
    log_only: dict[str, Any],
) -> None:
    serve_file(f"Subscription ID,User ID (UID),Term name,Modify time\nRC1,U1,Daily,{MODIFIED}\n")
    run = sync(None, catalog=log_only if with_catalog else None, **settings)
    (record,) = [m["record"] for m in run.of_type("RECORD") if m["stream"] == "subscription_log"]
    (said,) = [m for m in run.of_type("SCHEMA") if m["stream"] == "subscription_log"]
    assert set(said["schema"]["properties"]) == {"aid", "subscription_id", "user_id", "term_name", "modify_time"}
    assert set(record) == set(said["schema"]["properties"])
    assert "the export lacks the column(s)" in run.log
    assert "Trial status" in run.log


@pytest.mark.parametrize(
    ("columns", "leaves"), [("traits", False), ("traits,New thing", True), ("traits,new_thing", True), ("all", True)]
)
def test_a_column_nobody_knows_leaves_when_it_is_named(
    columns: str,
    leaves: bool,  # noqa: FBT001 - a parameter of the test
    serve_file: Callable[[str], None],
    settings: dict[str, Any],
    sync: Tap,
) -> None:
    serve_file(f"Subscription ID,User ID (UID),New thing,Modify time\nRC1,U1,a thing,{MODIFIED}\n")
    run = sync(None, **settings, columns=columns)
    (record,) = [m["record"] for m in run.of_type("RECORD") if m["stream"] == "subscription_log"]
    assert record.get("new_thing") == ("a thing" if leaves else None)
    assert ("new_thing" in record) is leaves


def test_a_name_that_neither_the_export_nor_piano_has_is_refused(
    serve_file: Callable[[str], None], settings: dict[str, Any], sync: Tap, log_only: dict[str, Any]
) -> None:
    serve_file(f"Subscription ID,User ID (UID),Modify time\nRC1,U1,{MODIFIED}\n")
    with pytest.raises(ConfigRefused, match="'favourite_colour' is neither a known column nor one of the export"):
        sync(None, catalog=log_only, **settings, columns="traits,favourite_colour")


def test_without_the_modify_time_all_of_it_is_sent_as_a_full_table(
    serve_file: Callable[[str], None], settings: dict[str, Any], sync: Tap, log_only: dict[str, Any]
) -> None:
    serve_file("Subscription ID,User ID (UID),Term name\nRC1,U1,Daily\n")
    run = sync(None, catalog=log_only, **settings)
    assert "the export has no column 'Modify time': all of it is sent" in run.log
    assert [record["subscription_id"] for record in run.records] == ["RC1"]
    assert len(run.of_type("ACTIVATE_VERSION")) == 1
    assert "modify_time" not in schema(run)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("Name,Colour\na,b\n", "no column 'Subscription ID'"),
        ("Subscription ID,User ID (UID),Modify time\n", "a header, but no rows"),
        (f'Subscription ID,User ID (UID),Modify time\nRC1,U1,{MODIFIED}\nRC2,"U2', "cut off"),
    ],
)
def test_a_file_that_is_no_log_is_refused_by_its_export_id_and_nothing_is_sent(
    content: str,
    words: str,
    serve_file: Callable[[str], None],
    settings: dict[str, Any],
    sync: Tap,
    log_only: dict[str, Any],
) -> None:
    serve_file(content)
    with pytest.raises(InputRefused, match=words) as refused:
        sync(None, catalog=log_only, **settings)
    assert str(refused.value).startswith("export ")
    assert "/tmp" not in str(refused.value)  # noqa: S108 - what must not stand there
