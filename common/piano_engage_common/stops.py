"""Reasons to stop a run, and the exit code of each.

The tree of what a run stops for::

    RunStopped                 somebody has to read the message
    ├── InputRefused      65   what came in is not what it must be
    ├── NoInput           66   there is nothing to read at that place
    ├── RowsLost          70   the database did not find rows that it holds
    ├── StorageFailed     74   a disk is full or cannot be written or read
    ├── Outage            75   a service does not answer as it should; run again later
    ├── AnswerRefused     76   a service answered what cannot be used; running again will not help
    ├── AccessRefused     77   a service lets this token or application do nothing, or not this
    ├── ConfigRefused     78   a setting cannot be used
    ├── BrakeApplied      80   a send was held back because it looks wrong
    ├── PartlyRejected    81   all was sent, and too much of it was rejected
    └── SidesDiffer       82   what was compared is not alike; nothing was sent

The numbers up to 78 are those of BSD's ``sysexits.h``. 80 to 82 are ours: no retry may follow 80. A process that a
signal ended exits with 128 plus the signal's number.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

import duckdb

from piano_engage_common.engine import installed_complaint

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator


class RunStopped(Exception):  # noqa: N818 - named after what happened, as in the tree above
    """The run ends here; the message says what is wrong, where, and what to do next."""

    exit_code: ClassVar[int] = 1


class InputRefused(RunStopped):
    """What came in is not what it must be (``EX_DATAERR``)."""

    exit_code = 65


class NoInput(RunStopped):
    """There is nothing to read at the given place (``EX_NOINPUT``)."""

    exit_code = 66


class RowsLost(RunStopped):
    """The database did not find rows that it holds, so what was made of them is wrong (``EX_SOFTWARE``)."""

    exit_code = 70


class StorageFailed(RunStopped):
    """A disk is full, or a file cannot be read or written (``EX_IOERR``)."""

    exit_code = 74


class Outage(RunStopped):
    """A service was down, too slow or too busy for as long as we tried (``EX_TEMPFAIL``): the one to retry after."""

    exit_code = 75


class AnswerRefused(RunStopped):
    """A service gave an answer that cannot be used, and would give it again (``EX_PROTOCOL``)."""

    exit_code = 76


class AccessRefused(RunStopped):
    """A service refuses the credentials, or what they ask for (``EX_NOPERM``)."""

    exit_code = 77


class ConfigRefused(RunStopped):
    """A setting has a value that cannot be used (``EX_CONFIG``)."""

    exit_code = 78


class BrakeApplied(RunStopped):
    """A send was held back because it looks wrong; a retry would be held back as well."""

    exit_code = 80


class PartlyRejected(RunStopped):
    """All was sent, and a service rejected more of it than may be."""

    exit_code = 81


class SidesDiffer(RunStopped):
    """What Piano holds, what its log told and what Engage was told are not alike."""

    exit_code = 82


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_WRONG_PLACE = frozenset({errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT})
_REMEDIES = {
    **dict.fromkeys(_NO_ROOM, "Make room, or set TMPDIR to a disk with more of it, then run again"),
    **dict.fromkeys(_NOT_ALLOWED, "Mend the permissions, or choose another place, then run again"),
    **dict.fromkeys(_WRONG_PLACE, "See what stands at that path, or choose another one, then run again"),
    errno.EIO: "The disk or its connection fails; look at it, then run again",
    errno.EMFILE: "Raise the limit of open files (ulimit -n), then run again",
}
_MAKE_ROOM = "Make room or mend the permissions, then run again"
_DATABASE_REMEDIES = (
    (duckdb.OutOfMemoryException, "Raise memory_limit, or make room on the disk for what does not fit in memory"),
    (duckdb.IOException, _MAKE_ROOM),
)
_COMMITTING = ("Failed to commit", "database has been invalidated")
"""What DuckDB says when it cannot write what is committed, and ever after."""


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn a full disk or a forbidden file met while *doing* something into :class:`StorageFailed`.

    Args:
        doing: what was going on, to be read after "While": ``"writing the ledger"``.

    Raises:
        StorageFailed: for an ``OSError`` of storage, or DuckDB's ``IOException``, out-of-space errors, failed commits.
    """
    try:
        yield
    except OSError as e:
        remedy = _REMEDIES.get(e.errno or 0)
        if remedy is None:
            raise
        msg = f"While {doing}: {e.strerror} ({e.filename}). {remedy}."
        raise StorageFailed(msg) from e
    except (duckdb.IOException, duckdb.OutOfMemoryException) as e:
        remedy = next(words for kind, words in _DATABASE_REMEDIES if isinstance(e, kind))
        msg = f"While {doing}: {str(e).splitlines()[0]}. {remedy}."
        raise StorageFailed(msg) from e
    except (duckdb.TransactionException, duckdb.FatalException) as e:
        if not any(words in str(e) for words in _COMMITTING):
            raise
        msg = f"While {doing}: {str(e).splitlines()[0]}. {_MAKE_ROOM}."
        raise StorageFailed(msg) from e


@contextmanager
def exits(logger: logging.Logger) -> Iterator[None]:
    """Log the message of a :class:`RunStopped` as one error line and exit with its code.

    With a DuckDB that must not be used nothing is begun. When whoever reads standard output has gone, the process ends
    as one that ``SIGPIPE`` ends.
    """
    try:
        if complaint := installed_complaint():
            raise ConfigRefused(complaint)
        with storage_errors("running"):
            yield
    except RunStopped as stop:
        logger.error("%s", stop)  # noqa: TRY400 - the message is for the person, a traceback would hide it
        sys.exit(stop.exit_code)
    except BrokenPipeError:
        logger.error("Whoever read the output has gone; its own log says why.")  # noqa: TRY400 - as above
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        sys.exit(128 + signal.SIGPIPE)
