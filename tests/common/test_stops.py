"""Exit codes and the messages that go with them."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import duckdb
import pytest
from piano_engage_common.stops import (
    BrakeApplied,
    ConfigRefused,
    InputRefused,
    NoInput,
    RunStopped,
    StorageFailed,
    exits,
    storage_errors,
)

if TYPE_CHECKING:
    from pathlib import Path

LOGGER = logging.getLogger("tests")


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (RunStopped, 1),
        (InputRefused, 65),
        (NoInput, 66),
        (StorageFailed, 74),
        (ConfigRefused, 78),
        (BrakeApplied, 80),
    ],
)
def test_stop_exits_with_its_code_and_one_line(
    stop: type[RunStopped], code: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SystemExit) as exit_info, exits(LOGGER):
        raise stop("log.csv: line 3: is odd. Mend it.")
    assert exit_info.value.code == code
    assert [record.getMessage() for record in caplog.records] == ["log.csv: line 3: is odd. Mend it."]


def test_unknown_exceptions_fly() -> None:
    with pytest.raises(ZeroDivisionError), exits(LOGGER):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Make room"),
        (errno.EFBIG, "Make room"),
        (errno.EACCES, "Mend the permissions"),
        (errno.EROFS, "Mend the permissions"),
        (errno.ENOTDIR, "See what stands at that path"),
        (errno.EEXIST, "See what stands at that path"),
        (errno.EIO, "disk or its connection fails"),
        (errno.EMFILE, "open files"),
    ],
)
def test_storage_errors_name_the_file_and_a_remedy(number: int, remedy: str) -> None:
    with pytest.raises(StorageFailed, match=rf"While writing x: .*/some/file.*{remedy}"), storage_errors("writing x"):
        raise OSError(number, "says the system", "/some/file")


def test_other_errors_of_the_system_fly() -> None:
    with pytest.raises(ConnectionResetError), storage_errors("writing x"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_stop_passes_through_unchanged() -> None:
    with pytest.raises(InputRefused, match=r"^as it was$"), storage_errors("writing x"):
        raise InputRefused("as it was")


def test_database_that_cannot_write_is_a_storage_error(tmp_path: Path) -> None:
    with (
        duckdb.connect() as connection,
        pytest.raises(StorageFailed, match=r"While copying: IO Error: .* Make room"),
        storage_errors("copying"),
    ):
        connection.execute(f"COPY (SELECT 1) TO '{tmp_path}/no/such/folder/x.csv'")


def test_database_without_memory_names_the_setting() -> None:
    with (
        duckdb.connect(config={"memory_limit": "10MB", "temp_directory": ""}) as connection,
        pytest.raises(StorageFailed, match=r"Raise memory_limit"),
        storage_errors("sorting"),
    ):
        connection.execute("CREATE TABLE t AS SELECT hash(i) AS h FROM range(20_000_000) r(i) ORDER BY h")
