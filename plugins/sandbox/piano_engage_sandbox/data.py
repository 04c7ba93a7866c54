"""Subscription logs as Piano exports them, of any size: `python -m piano_engage_sandbox.data --help`.

The same seed gives the same readers for ever. A later `as_of` tells how their lives went on: that is a later export.
With `rows` the readers are counted off until the file has exactly that many rows at the moment `since` (by default
`as_of` itself); a successor keeps `since` and moves `as_of`, so it is about the same readers and those who came after.
"""

from __future__ import annotations

from piano_engage_sandbox.export import Export, ExportError, Options, log_rows, write_log

__all__ = ["Export", "ExportError", "Options", "log_rows", "write_log"]

if __name__ == "__main__":
    import sys

    from piano_engage_sandbox.cli import main

    sys.exit(main())
