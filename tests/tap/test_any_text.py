"""Whatever text a CSV holds comes out as it went in."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.tap.conftest import Exports, Tap

CELL = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.text(st.sampled_from("a\"',;\n\r\t \\é"), max_size=8),
)
HEADERS = ["Subscription ID", "User ID (UID)", "Term name", "Summary", "Device"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=8),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_any_table_of_text_comes_out_as_it_went_in(
    table: list[tuple[str, str, str]], line_end: str, quoting: int, exports: Exports, sync: Tap
) -> None:
    if any("\r" in cell for cells in table for cell in cells):
        quoting = csv.QUOTE_ALL  # Python 3.11 puts no quotes around a CR when lines end in LF
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator=line_end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(HEADERS)
    writer.writerows([f"RC{number}", "u", *cells] for number, cells in enumerate(table))
    run = sync(exports.bytes(buffer.getvalue().encode()), columns="all")
    came = {record["subscription_id"]: record for record in run.records}
    for number, cells in enumerate(table):
        record = came.pop(f"RC{number}")
        blank_is_null = [cell if cell.strip(" ") else None for cell in cells]
        assert [record["term_name"], record["summary"], record["device"]] == blank_is_null
    assert came == {}
