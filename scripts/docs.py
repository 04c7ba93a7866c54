"""Write what `--about` says of the plugins' settings into meltano.yml and the READMEs, and the sandbox's switches.

The places are marked: ``settings: <plugin> (made by ...)`` or ``switches: <part> (made by ...)`` opens one, ``end``
closes it. ``settings: <plugin> as <name>`` lists the settings of one plugin among those of another, in an object of
that name. The definitions for other projects are made whole, of what meltano.yml says. With ``--check`` nothing is
written, and the exit code says whether all is up to date.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from piano_actions.settings import schema as actions_schema
from target_recurly_engage.computed import FORMULAS, STAGE_SQL
from target_recurly_engage.pulse import DISPLAYS, TYPES
from target_recurly_engage.ready import BY_NAME as READY
from target_recurly_engage.statuses import WORDS
from target_recurly_engage.traits import TRAITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from target_recurly_engage.traits import Trait

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ("tap-piano", "target-recurly-engage")
FILES = (
    "meltano.yml", "README.md", "tap-piano/README.md", "target-recurly-engage/README.md", "docs/sandbox.md",
    "docs/actions.md", "docs/traits.md", "docs/segments.md",
)  # fmt: skip
DEFINITIONS = ROOT / "plugins/definitions"
DEFINED = {
    "tap-piano": ("extractors", "Piano: the subscription log, and what a publisher sells"),
    "target-recurly-engage": ("loaders", "Recurly Engage: user traits, only those that changed"),
    "recurly-engage": ("utilities", "What a person asks of the ledger of target-recurly-engage, as steps of jobs"),
    "piano-actions": ("utilities", "Actions on subscriptions at Piano, which Engage is told of at once"),
}
"""What other projects can add: kind and description."""
PACKAGES = {"recurly-engage": "target-recurly-engage"}
"""Plugins that are in the package of another."""
SWITCHES = ROOT / "plugins/sandbox/piano_engage_sandbox/switches.py"
BLOCK = re.compile(
    r"(?P<open>^(?P<indent> *)(?:#|<!--) (?P<what>settings|switches|traits): (?P<name>[a-z-]+) "
    r"(?:as (?P<inside>[a-z]+) )?.*?\n)"
    r"(?P<body>.*?)(?P<close>^ *(?:#|<!--) end)",
    re.DOTALL | re.MULTILINE,
)
SHARED = {"timezone": "PIANO_TIMEZONE"}
"""Settings of several plugins that have one value under Meltano, and the variable that sets it in all of them.

It is their default there, and no alias: Meltano refuses a setting for which two variables are set, and a run hands the
tap's variables to the target.
"""

KINDS = {"integer": "integer", "boolean": "boolean", "object": "object", "array": "array"}
"""Not "number": of a ``kind: decimal`` in the environment Meltano 4.4 makes what it cannot write to a file."""


def settings(plugin: str) -> dict[str, Any]:
    """Ask a plugin for the JSON schema of its settings."""
    if plugin == "piano-actions":
        return actions_schema()
    command = [str(Path(sys.executable).with_name(plugin)), "--about", "--format", "json"]
    about = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603 - our own
    return dict(about["settings"])


def kind(schema: dict[str, Any]) -> str:
    """Name the kind of a setting as Meltano does; what may be a string is not named."""
    types = schema.get("type", "string")
    names = [types] if isinstance(types, str) else types
    return "" if "string" in names else next((KINDS[name] for name in names if name in KINDS), "")


def as_yaml(schema: dict[str, Any], indent: str) -> str:
    """List settings as Meltano takes them. No default stands here: there is one, in the code."""
    lines = []
    for name, entry in schema["properties"].items():
        lines.append(f"- name: {name}")
        if name in SHARED:
            lines.append(f"  value: ${SHARED[name]}")
        if kind(entry):
            lines.append(f"  kind: {kind(entry)}")
        if entry.get("secret"):
            lines.append("  sensitive: true")
        lines.append(f"  label: {json.dumps(entry.get('title', name))}")
        lines.append(f"  description: {json.dumps(entry['description'], ensure_ascii=False)}")
    return "".join(f"{indent}{line}\n" for line in lines)


def inside(plugin: str, schema: dict[str, Any], member: str, indent: str) -> str:
    """List settings as members of an object among those of another plugin; both go by the first one's variables."""
    lines = []
    for name, entry in schema["properties"].items():
        lines += [f"- name: {member}.{name}", f"  env_aliases: [{plugin.upper().replace('-', '_')}_{name.upper()}]"]
        lines += [f"  value: ${SHARED[name]}"] if name in SHARED else []
        lines += [f"  kind: {kind(entry)}"] if kind(entry) else []
        lines += ["  sensitive: true"] if entry.get("secret") else []
    return "".join(f"{indent}{line}\n" for line in lines)


def as_table(schema: dict[str, Any]) -> str:
    """List settings as a Markdown table: those of the plugin itself, then the names of those of the SDK."""
    rows = ["| Setting | Default | Meaning |", "|---|---|---|"]
    required = schema.get("required", [])
    for name, entry in schema["properties"].items():
        default = "required" if name in required else f"`{json.dumps(entry['default'])}`" if "default" in entry else ""
        rows.append(f"| `{name}` | {default} | {entry['description'].replace('|', '&#124;')} |")
    return "".join(f"{row}\n" for row in rows)


def switches(part: str) -> str:
    """List the switches of a part of the sandbox: name, what it takes (the default first), and what it decides."""
    tree = ast.parse(SWITCHES.read_text(encoding="utf-8"))
    names = (f"{part.capitalize()}Switches", f"{part.removesuffix('s').capitalize()}Switches")
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in names).body
    rows = ["| Switch | Takes (default first) | Decides |", "|---|---|---|"]
    for field, said in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(said, ast.Expr):
            default, meaning = ast.literal_eval(field.value or ast.Constant("")), ast.literal_eval(said.value)
            rows.append(f"| `{part}.{ast.unparse(field.target)}` | {choices(field.annotation, default)} | {meaning} |")
    return "".join(f"{row}\n" for row in rows)


def choices(annotation: ast.expr, default: object) -> str:
    """Say what a switch takes: its words or numbers, or its default and what kind of value that is."""
    if isinstance(annotation, ast.Subscript):
        taken = ast.literal_eval(annotation.slice)
        words = [default, *(word for word in taken if word != default)]
        return ", ".join(f"`{word}`" for word in words)
    if default in (True, False) and ast.unparse(annotation) == "bool":
        return ", ".join(f"`{str(word).lower()}`" for word in (default, not default))
    kinds = {"float": "a number", "int": "a whole number", "str": "a text"}
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    return f"`{shown}` ({kinds[ast.unparse(annotation)]})"


def table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Make a Markdown table."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def log_traits() -> str:
    """List the traits that the log has."""
    rows = ((f"`{one.name}`", TYPES[one.kind], DISPLAYS[one.kind], steps(one)) for one in TRAITS)
    return table(("Trait", "Type", "Display in Pulse", "Told when"), rows)


def computed_traits() -> str:
    """List the computed traits, with their formulas."""
    return table(
        ("Trait", "Type", "Display in Pulse", "Usual", "Told when", "Meaning", "Formula"),
        (
            (
                f"`{one.name}`", TYPES[one.kind], DISPLAYS[one.kind], "yes" if one.usual else "", steps(one.trait),
                one.meaning, f"`{one.sql}`" + (" over all subscriptions" if one.of_all else ""),
            )
            for one in FORMULAS
        ),
    )  # fmt: skip


def steps(trait: Trait) -> str:
    """Say when a trait is a reason to send."""
    return f"it crosses {', '.join(f'{one:g}' for one in trait.thresholds)}" if trait.drifts else "it changes"


def words() -> str:
    """List the status words."""
    return table(
        ("Spelled", "Meaning"), ((", ".join(f"`{one}`" for one in word.spellings), word.meaning) for word in WORDS)
    )


def ready_segments() -> str:
    """List the ready-made segments."""

    def row(one: dict[str, Any]) -> str:
        ((way, asked),) = ((way, one[way]) for way in ("include", "exclude") if way in one)
        ((operator, value),) = asked.items()
        return f"`{one['trait']}` {way} {operator.replace('_', ' ')} {json.dumps(value)}"

    return table(
        ("Segment", "For", "Filters"),
        ((f"`{one['name']}`", one["description"], "<br>".join(map(row, one["filters"]))) for one in READY.values()),
    )


TRAIT_TABLES: dict[str, Callable[[], str]] = {
    "log": log_traits, "computed": computed_traits, "words": words, "segments": ready_segments,
    "stage": lambda: f"```sql\n{STAGE_SQL}\n```\n",
}  # fmt: skip


def renewed(text: str) -> str:
    """Give *text* with its marked blocks made anew."""

    def block(match: re.Match[str]) -> str:
        if match["what"] == "switches":
            return match["open"] + switches(match["name"]) + match["close"]
        if match["what"] == "traits":
            return match["open"] + TRAIT_TABLES[match["name"]]() + match["close"]
        schema = settings(match["name"])
        if match["inside"]:
            return match["open"] + inside(match["name"], schema, match["inside"], match["indent"]) + match["close"]
        is_yaml = match["open"].lstrip().startswith("#")
        body = as_yaml(schema, match["indent"]) if is_yaml else as_table(schema)
        return match["open"] + body + match["close"]

    return BLOCK.sub(block, text)


def definition(plugin: str, project: dict[str, Any]) -> str:
    """Make the definition of a plugin in the form of Meltano Hub, for `meltano add --from-ref`."""
    kind, description = DEFINED[plugin]
    (found,) = (one for one in project["plugins"][kind] if one["name"] == plugin)
    values = found.get("config", {})
    settings_ = [one | ({"value": values[one["name"]]} if one["name"] in values else {}) for one in found["settings"]]
    taken = {key: found[key] for key in ("capabilities", "settings_group_validation", "commands") if key in found}
    content = {
        "name": plugin,
        "variant": "piano-engage",
        "namespace": found["namespace"],
        "label": found.get("label", plugin),
        "description": description,
        "pip_url": PACKAGES.get(plugin, plugin),
        "executable": found["executable"],
        **taken,
        "settings": settings_,
    }
    head = "# For other projects: `meltano add --from-ref` (docs/production.md). Made by `make docs`; do not edit.\n"
    return head + yaml.safe_dump(content, sort_keys=False, width=1000, allow_unicode=True)


def renewals() -> Iterator[tuple[Path, str]]:
    """Yield every file with the text that it should have; the definitions last, for they are made of meltano.yml."""
    project = ""
    for file in FILES:
        text = renewed((ROOT / file).read_text(encoding="utf-8"))
        project = text if file == "meltano.yml" else project
        yield ROOT / file, text
    for plugin in DEFINED:
        yield DEFINITIONS / f"{plugin}.meltano-hub.yml", definition(plugin, yaml.safe_load(project))


def main() -> int:
    """Renew all files, or with ``--check`` say which are stale."""
    stale = []
    for path, new in renewals():
        if not path.exists() or new != path.read_text(encoding="utf-8"):
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv:
                path.parent.mkdir(exist_ok=True)
                path.write_text(new, encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"stale: {', '.join(stale)}; run 'make docs'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
