"""What the pair is measured against: a script with pandas, and a tap and a target as the SDK makes them by default.

Each runs as a process of its own: ``python benchmarks/baselines.py <name> <arguments>``.
"""

from __future__ import annotations

import csv
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from singer_sdk import Stream, Tap, Target
from singer_sdk import typing as th
from singer_sdk.sinks import BatchSink
from tap_piano.columns import KNOWN, TRAITS, Kind, column_of

TYPES = {
    Kind.TEXT: th.StringType,
    Kind.TIMESTAMP: th.DateTimeType,
    Kind.BOOLEAN: th.BooleanType,
    Kind.MONEY: th.NumberType,
    Kind.INTEGER: th.IntegerType,
}
PARSERS = {
    Kind.TEXT: str,
    Kind.TIMESTAMP: lambda text: datetime.strptime(text, "%Y-%m-%d %H:%M:%S %z").isoformat(),
    Kind.BOOLEAN: lambda text: text.lower() == "true",
    Kind.MONEY: float,
    Kind.INTEGER: int,
}


class DefaultStream(Stream):
    """The subscription log as the SDK's documentation would have it written: a dictionary for each row."""

    name = "subscription_log"
    primary_keys = ("subscription_id",)
    schema = th.PropertiesList(*(th.Property(c.name, TYPES[c.kind]) for c in KNOWN)).to_dict()

    def get_records(self, context: Any) -> Any:  # noqa: ANN401, ARG002
        """Yield the rows of the file."""
        with Path(self.config["path"]).open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            columns = [column_of(header) for header in next(rows)]
            for row in rows:
                yield {
                    column.name: PARSERS[column.kind](cell) if cell else None
                    for column, cell in zip(columns, row, strict=True)
                }


class DefaultTap(Tap):
    """A tap around that stream."""

    name = "tap-default"
    config_jsonschema = th.PropertiesList(th.Property("path", th.StringType, required=True)).to_dict()

    def discover_streams(self) -> list[Stream]:
        """Give the one stream."""
        return [DefaultStream(self)]


class JsonlSink(BatchSink):
    """Writes each batch as JSON lines, as ``target-jsonl`` does."""

    def process_batch(self, context: dict[str, Any]) -> None:
        """Append the records."""
        with Path(self.config["path"]).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, default=str) + "\n" for record in context["records"])


class DefaultTarget(Target):
    """A target around that sink."""

    name = "target-default"
    default_sink_class = JsonlSink
    config_jsonschema = th.PropertiesList(th.Property("path", th.StringType, required=True)).to_dict()


def pandas_script(source: str, target: str) -> None:
    """Do what many do: read all of it, parse the dates, take the newest row of a reader, write a CSV."""
    import pandas as pd  # noqa: PLC0415 - only this baseline needs it

    frame = pd.read_csv(source, dtype=str, keep_default_na=False)
    frame.columns = [column_of(header).name for header in frame.columns]
    frame = frame[list(TRAITS)]
    for column in KNOWN:
        if column.name in TRAITS and column.kind is Kind.TIMESTAMP:
            moments = pd.to_datetime(frame[column.name], format="%Y-%m-%d %H:%M:%S %z", utc=True, errors="coerce")
            frame[column.name] = moments.dt.strftime("%Y-%m-%d")
    frame = frame.sort_values("access_expiration_date").drop_duplicates("user_id", keep="last")
    order = ["user_id", *(name for name in TRAITS if name != "user_id")]
    frame[order].fillna("none").to_csv(target, index=False)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tap", config]:
            DefaultTap.cli(["--config", config])
        case ["target", config]:
            DefaultTarget.cli(["--config", config])
        case ["pandas", source, target]:
            pandas_script(source, target)
        case _:
            sys.exit(__doc__)
