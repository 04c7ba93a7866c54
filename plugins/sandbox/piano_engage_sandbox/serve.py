"""The command `sandbox`: serve both vendors on localhost, and carry files to and from them.

Exit codes: 0 when it was stopped by Ctrl-C or SIGTERM, or a command did its work; 1 when a port is taken, a file cannot
be written or a vendor refuses; 2 for options that make no sense.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from piano_engage_sandbox.application import DEFAULT_AID
from piano_engage_sandbox.service import App, Options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from piano_engage_sandbox.server import Server

DESCRIPTION = """Piano and Recurly Engage on localhost, for trying things out and for tests.

Without a command it serves. Every option of `serve` can come from the environment instead: SANDBOX_PORT for --port and
so on; of those that may be repeated, several are given as a JSON list. Options beat the environment."""
PORT, S3_PORT = 8765, 8766
REPEATED: Final = ("app", "switch", "fault", "limit")
FLAGS: Final = ("frozen",)


def parser() -> argparse.ArgumentParser:
    """Describe the commands and their options."""
    p = argparse.ArgumentParser(
        prog="sandbox", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = p.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve both vendors until Ctrl-C")
    _add_serve(serve)
    return p


def _add_serve(p: argparse.ArgumentParser) -> None:
    p.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    p.add_argument("--port", type=int, default=PORT, metavar="N", help="0 takes a free one (default: %(default)s)")
    p.add_argument("--s3-port", type=int, default=S3_PORT, metavar="N", help="of the S3 server (default: %(default)s)")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="another seed, other readers (default: 1)")
    p.add_argument("--rows", type=int, default=2000, metavar="N", help="subscriptions at the start (default: 2000)")
    p.add_argument(
        "--app", action="append", metavar="AID[:ZONE[:ROWS]]", help=f"application; repeatable (default: {DEFAULT_AID})"
    )
    p.add_argument("--begins", metavar="WHEN", help="local date-time like 2026-03-28T06:00 (default: the machine's)")
    p.add_argument("--frozen", action="store_true", help="let the clock stand still until it is moved")
    p.add_argument("--switch", action="append", metavar="NAME=VALUE", help="like reports.packed=zip; repeatable")
    p.add_argument("--fault", action="append", metavar="RULE", help="like part=engage,status=503,times=5; repeatable")
    p.add_argument("--limit", action="append", metavar="RULE", help="like part=publisher,rate=10; repeatable")
    p.add_argument("--segments", metavar="FILE", help="segments an administrator has typed, as YAML or JSON")
    p.add_argument("--webhook-url", metavar="URL", help="where Piano's webhooks go")
    p.add_argument("--env-file", metavar="PATH", help="write the lines for .env to this file as well")


def from_environment(environment: Mapping[str, str]) -> list[str]:
    """Turn SANDBOX_… into options of `serve`; they are put before those of the command line."""
    known = parser().parse_args(["serve"])
    options = []
    for name in (name for name in vars(known) if name != "command"):
        text = environment.get(f"SANDBOX_{name.upper()}", "")
        option = f"--{name.replace('_', '-')}"
        if name in FLAGS:
            options += [option] if text.lower() in {"true", "1", "yes"} else []
        elif text:
            values = json.loads(text) if name in REPEATED and text.lstrip().startswith("[") else [text]
            options += [f"{option}={value}" for value in values]
    return options


def app_of(text: str, rows: int) -> App:
    """Read `AID[:ZONE[:ROWS]]`; raises ValueError."""
    aid, _, rest = text.partition(":")
    timezone, _, count = rest.partition(":")
    if not aid or (count and not count.isdigit()):
        msg = f"--app takes AID[:ZONE[:ROWS]], not {text!r}"
        raise ValueError(msg)
    return App(aid=aid, name=f"Example {aid}", timezone=timezone or App().timezone, rows=int(count) if count else rows)


def options_of(given: argparse.Namespace) -> Options:
    """Turn the command line into options of the sandbox; raises ValueError."""
    pairs = [text.partition("=") for text in given.switch or []]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        msg = f"--switch takes NAME=VALUE, not {wrong[0]!r}"
        raise ValueError(msg)
    apps = tuple(app_of(text, given.rows) for text in given.app) if given.app else (App(rows=given.rows),)
    return Options(
        host=given.host,
        port=given.port,
        s3_port=given.s3_port,
        seed=given.seed,
        apps=apps,
        begins=given.begins,
        running=not given.frozen,
        switches={name: value for name, _, value in pairs},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in {"-h", "--help"}):
        given.insert(0, "serve")
    if given[0] == "serve":
        given[1:1] = from_environment(os.environ)
    p = parser()
    chosen = p.parse_args(given)
    try:
        return _serve(chosen)
    except ValueError as e:
        p.error(str(e))


def _serve(given: argparse.Namespace) -> int:
    from piano_engage_sandbox.server import Server  # noqa: PLC0415 - the other commands start faster without

    server = Server(options_of(given))
    _prepare(server, given)
    stopped = threading.Event()
    before = [signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with server:
            _tell(server, given.env_file)
            stopped.wait()
            sys.stderr.write("sandbox: stopping\n")
    except OSError as e:
        sys.stderr.write(f"sandbox: cannot serve: {e.strerror or e}; is a port taken? choose --port and --s3-port\n")
        return 1
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    return 0


def _prepare(server: Server, given: argparse.Namespace) -> None:
    """Set what the flags say before the first request; raises ValueError."""
    from piano_engage_sandbox import control_parts, control_piano  # noqa: PLC0415 - with the server
    from piano_engage_sandbox.faults import Faults  # noqa: PLC0415
    from piano_engage_sandbox.limits import Limits  # noqa: PLC0415

    sandbox = server.sandbox
    for rule in given.fault or []:
        sandbox.part(Faults).add(rule)
    for rule in given.limit or []:
        sandbox.part(Limits).add(rule)
    if given.segments:
        control_parts.define_segments(sandbox, _read(given.segments))
    if given.webhook_url:
        control_piano.configure_webhooks(sandbox, {"url": given.webhook_url})


def _read(path: str) -> list[dict[str, Any]]:
    import yaml  # noqa: PLC0415 - only for this option

    try:
        return list(yaml.safe_load(Path(path).read_text(encoding="utf-8")) or [])
    except (OSError, yaml.YAMLError, TypeError) as e:
        msg = f"--segments: cannot read {path}: {e}"
        raise ValueError(msg) from e


def _tell(server: Server, env_file: str | None) -> None:
    """Say where it is, and what to put into `.env`."""
    lines = "".join(f"{name}={value}\n" for name, value in server.environment().items())
    if env_file:
        Path(env_file).write_text(lines, encoding="utf-8")
    sys.stderr.write(f"sandbox: serving at {server.url}/ (control: {server.url}/_sandbox/); Ctrl-C stops it\n")
    _, *others = server.sandbox.piano.values()
    tokens = "".join(f"# API token of {app.aid}: {app.token}\n" for app in others)
    sys.stdout.write(f"# Paste these lines into .env\n{lines}{tokens}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
