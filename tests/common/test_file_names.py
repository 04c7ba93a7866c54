"""Names of files are data to DuckDB: read as they are, and named in SQL in one way only."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb
import pytest
from piano_engage_common.duck import file_source, file_target
from piano_engage_common.stops import InputRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CODE = ("common", "tap-piano", "target-recurly-engage", "plugins", "scripts", "benchmarks", "demo")
NAMES = (
    "log1.csv", "log.csv", "loga.csv", "log[1].csv", "log[a-z].csv", "log[!1].csv", "log[^1].csv", "log?.csv",
    "log*.csv", "**.csv", "log{1,a}.csv", "log[[]1].csv", "log[", "log].csv", "[].csv", "log (1).csv", "it's.csv",
    "user_id=7.csv", "{uuid}.csv", "~.csv", "%20.csv",
    "a#b.csv", "a\nb.csv", "é.csv", "$x.csv", "log.csv.gz", "log.csv.zst",
)  # fmt: skip
FOLDERS = ("plain", "in[1]", "in*", "in?", "**", "{a,b}", "user_id=7", "it's", "in[1]/user_id=8/[a]")


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of a strange name, beside all the others; each file in it holds its own name."""
    for one in FOLDERS:
        (tmp_path / one).mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            (tmp_path / one / name).write_text(f'who\n"{one}|{NAMES.index(name)}"\n')
    return tmp_path / str(request.param)


CONNECTION = duckdb.connect()


def read(path: Path) -> list[tuple[str, ...]]:
    options = "columns = {who: 'VARCHAR'}, auto_detect = false, header = true, compression = 'none'"
    return CONNECTION.execute(f"FROM read_csv({file_source(path)}, {options})").fetchall()


def test_a_file_is_read_by_its_own_name_and_no_other_file(folder: Path, tmp_path: Path) -> None:
    where = str(folder.relative_to(tmp_path))
    for number, name in enumerate(NAMES):
        assert read(folder / name) == [(f"{where}|{number}",)], name


@pytest.mark.parametrize("name", ["in[1]", "in*", "user_id=7", "{uuid}", "it's"])
def test_what_is_written_has_its_own_name_and_is_read_back_without_columns_of_the_folder(
    name: str, tmp_path: Path
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    parquet, lines, database = folder / f"{name}.parquet", folder / f"{name}.jsonl", folder / f"{name}.duckdb"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 'mine' AS user_id) TO {file_target(parquet)} (FORMAT parquet)")
        connection.execute(f"COPY (SELECT 'mine' AS user_id) TO {file_target(lines)} (FORMAT json)")
        connection.execute(f"ATTACH {file_target(database)} AS other; CREATE TABLE other.mine (a INTEGER)")
        assert set(folder.iterdir()) >= {parquet, lines, database}
        for reader, path in (("read_parquet", parquet), ("read_json", lines), ("read_ndjson", lines)):
            assert connection.sql(f"FROM {reader}({file_source(path)})").fetchall() == [("mine",)]
        ((found,),) = connection.sql(f"FROM read_json_objects({file_source(lines)})").fetchall()
        assert found == '{"user_id":"mine"}'


@pytest.mark.parametrize("name", ["a\\b.csv", "\\.csv"])
def test_a_backslash_is_itself(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("who\nme\n")
    assert read(tmp_path / name) == [("me",)]


@pytest.mark.parametrize("name", ["a\\b[1].csv", "a\\*.csv"])
def test_a_backslash_beside_a_wildcard_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("who\nme\n")
    with pytest.raises(InputRefused, match="Rename"):
        file_source(tmp_path / name)


# No other way

HOLE: Final = "\N{WHITE SQUARE}"
_READER = r"read_\w+|parquet_\w+|sniff_csv|glob|iceberg_\w+|delta_scan|sqlite_scan"
WAYS: Final = (
    (re.compile(rf"(?<![\w.])(?:{_READER})\s*\((?!\s*{HOLE}file_source\()", re.IGNORECASE), "a reader of files"),
    (re.compile(rf"(?<!{HOLE})\bATTACH\s+(?!{HOLE}file_target\()"), "ATTACH"),
    (re.compile(rf"\)\s*TO\s+(?!{HOLE}file_target\()"), "COPY … TO"),
    (
        re.compile(rf"\bCOPY\s+(?!FROM DATABASE\b)[^(\s]\S*.*?\b(?:TO|FROM)\s+(?!{HOLE}file_target\()", re.DOTALL),
        "COPY",
    ),
    (re.compile(r"\b(?:EXPORT|IMPORT) DATABASE\b"), "EXPORT or IMPORT DATABASE"),
    (re.compile(r"\b(?:FROM|JOIN)\s+'"), "a file in FROM"),
)
METHODS: Final = re.compile(r"(?:read|from|to|write)_(?:csv|csv_auto|parquet|json|ndjson)")
_SQL: Final = re.compile(r"[({]|\b(?:ATTACH|COPY|DATABASE|FROM|JOIN)\b")


def files_named_otherwise(source: str) -> Iterator[str]:
    """Yield each place of a module that names a file to DuckDB without the helper."""
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    inside |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and id(node) not in inside):
            written = _written(node)
            if not isinstance(written, str) or not _SQL.search(written):
                continue
            for way, what in WAYS:
                for _ in way.finditer(written):
                    yield f"line {node.lineno}: {what}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and METHODS.fullmatch(node.func.attr):
            if not re.match(r"(?:pd|frame)\b", ast.unparse(node.func)):  # pandas
                yield f"line {node.lineno}: the method {node.func.attr}"
        elif isinstance(node, ast.Call) and re.fullmatch(r"text\(str\([^()]*\)\)", ast.unparse(node)):
            yield f"line {node.lineno}: text(str(…))"


def _written(node: ast.expr) -> object:
    """Return a string as it is written, with what is put in between marked."""
    if isinstance(node, ast.JoinedStr):
        parts = (_written(part) for part in node.values)
        return "".join(str(part) for part in parts)
    if isinstance(node, ast.FormattedValue):
        return f"{HOLE}{ast.unparse(node.value)}{HOLE}"
    value = node.value if isinstance(node, ast.Constant) else ""
    return value.replace("{file_", f"{HOLE}file_") if isinstance(value, str) else value  # of a script in a string


def code() -> Iterator[Path]:
    for part in CODE:
        yield from (
            path for path in (ROOT / part).rglob("*.py") if path.name != "duck.py" and ".venv" not in path.parts
        )


def test_no_code_names_a_file_in_another_way() -> None:
    files = list(code())
    assert len(files) > 200
    found = [
        f"{path.relative_to(ROOT)}, {place}"
        for path in files
        for place in files_named_otherwise(path.read_text(encoding="utf-8"))
    ]
    assert found == [], "use file_source() or file_target() of piano_engage_common.duck"


@pytest.mark.parametrize(
    "line",
    [
        'f"FROM read_csv({text(str(path))}, header = true)"',
        "f\"FROM read_csv('{path}')\"",
        'f"FROM read_parquet({where})"',
        'f"FROM read_parquet([{text(one)}])"',
        'f"FROM read_json_objects( {text(one)})"',
        '"FROM read_csv(?)"',
        "\"FROM read_text('x.csv')\"",
        'f"SELECT * FROM parquet_metadata({text(one)})"',
        "f\"SELECT * FROM '{path}'\"",
        "\"SELECT * FROM glob('*.csv')\"",
        'f"ATTACH {text(path)} AS x"',
        "f\"ATTACH '{path}' AS x\"",
        "f\"COPY (FROM plan) TO '{path}'\"",
        'f"COPY (FROM plan) TO {text(str(path))} (FORMAT csv)"',
        'f"COPY (FROM plan) TO {where}"',
        "f\"COPY plan TO '{path}'\"",
        "f\"COPY {table} FROM '{path}'\"",
        "f\"EXPORT DATABASE '{path}'\"",
        "connection.read_csv(path)",
        "relation.write_parquet(path)",
        "text(str(path))",
        "file_source",
    ],
)
def test_every_other_way_is_found(line: str) -> None:
    assert bool(list(files_named_otherwise(f"x = {line}"))) is (line != "file_source")


@pytest.mark.parametrize(
    "line",
    [
        'f"FROM read_csv({file_source(path)}, header = true)"',
        'f"COPY (FROM read_parquet({file_source(a)})) TO {file_target(b)} (FORMAT csv)"',
        'f"ATTACH {file_target(path)} AS x"',
        'f"COPY FROM DATABASE {name(a)} TO {b}"',
        "path.read_text(encoding='utf-8')",
    ],
)
def test_the_helper_is_not(line: str) -> None:
    assert not list(files_named_otherwise(f"x = {line}"))
