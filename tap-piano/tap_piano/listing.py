"""What is at ``export_path``: the exports to read, and what looks like one and is not read.

Three kinds of other files lie beside exports. Companions, which operating systems and office programs leave, are
ignored. What looks like data and is not read is named, for the log is not complete without it. The rest is ignored.
"""

from __future__ import annotations

import codecs
import glob
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final

from piano_engage_common.stops import InputRefused, NoInput

from tap_piano.archives import Packing, check_readable, members_of, open_packed, packing_of
from tap_piano.columns import REQUIRED, column_of
from tap_piano.files import MAX_HEADER_BYTES, Export, stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from zipfile import ZipInfo

    _Natural = tuple[tuple[bool, int, str], ...]

READ: Final = (".csv", ".zip", ".csv.gz")
_COMPANION: Final = re.compile(
    r"\._.*|~\$.*|\.~lock\..*#|\.ds_store|\.localized|icon\r|(?:eh)?thumbs(?:_vista)?\.db|desktop\.ini|\.directory|"
    r"\.git(?:keep|ignore)|\.keep|\.gitattributes|\.nfs[0-9a-f]+|\.fuse_hidden.*",
    re.IGNORECASE | re.DOTALL,
)
"""Names of files that a system or a program leaves beside others; none of them holds an export."""

_COMPANION_FOLDER: Final = re.compile(r"__macosx|@eadir|#recycle|\$recycle\.bin|lost\+found|\..+", re.IGNORECASE)
_UNFINISHED: Final = (
    ".part", ".partial", ".filepart", ".crdownload", ".download", ".opdownload", ".tmp", ".temp", ".aria2", ".!ut",
)  # fmt: skip
"""How browsers and transfer programs end the name of what they still write."""

_PACKED_OR_TABLE: Final = re.compile(
    r"\.(?:xls[xmb]?|ods|numbers|tsv|tab|parquet|gz|tgz|bz2|xz|zst|7z|rar|tar|z\d\d)$|\.(?:csv|zip)(?![a-z])"
)
"""Names of what may hold the log in a form that is not read, or under a name that is not."""

MAX_DEPTH: Final = 5
MAX_ENTRIES: Final = 10_000
"""How far subfolders are searched for exports that are not read."""

SHOWN: Final = 5
_DELIMITERS: Final = re.compile(r"[,;\t|]")


@dataclass(slots=True)
class Listing:
    """What was found.

    Attributes:
        exports: the exports to read, older names first.
        passed_over: what looks like an export and is not read, each with the reason.
    """

    exports: list[Export] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return what is passed over, as the middle of a sentence."""
        more = len(self.passed_over) - SHOWN
        return "; ".join(self.passed_over[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def list_exports(export_path: str) -> Listing:
    """List the exports at a path, in a folder or of a glob.

    Raises:
        NoInput: nothing is there.
        InputRefused: a ZIP is broken or holds no CSV, or the path names what is not an export.
    """
    place = Path(export_path).expanduser()
    listing = Listing()
    if place.is_file():
        _check_named(place)
        found = [place]
    elif place.is_dir():
        found = list(_of_folder(place, listing))
    else:
        found = list(_of_glob(place, listing))
    if not found:
        what = f"the folder {export_path} holds no" if place.is_dir() else f"there is no file at {export_path}, no"
        passed = f" Not read: {listing}." if listing.passed_over else ""
        advice = "Put the export there" if place.is_dir() else "Check the path; a glob needs quotes in a shell"
        msg = f"export_path: {what} .csv, .csv.gz and .zip file.{passed} {advice}."
        raise NoInput(msg)
    return list_files(sorted(found, key=natural_key), into=listing)


def list_files(paths: Iterable[Path], *, label: str = "", into: Listing | None = None) -> Listing:
    """List the CSVs that the files *paths* are, or hold.

    Args:
        paths: the files.
        label: what to call them in messages instead of their paths.
        into: what to add them to.

    Raises:
        InputRefused: a ZIP is broken, or holds no CSV.
    """
    listing = Listing() if into is None else into
    for path in paths:
        packing, stamp, called = packing_of(path), stamp_of(path), label or str(path)
        if packing is Packing.ZIP:
            listing.exports += _of_zip(Export(path, stamp, name=label, packing=packing), called, listing)
        else:
            listing.exports.append(Export(path, stamp, name=label, packing=packing))
    return listing


def natural_key(path: PurePath) -> tuple[tuple[_Natural, ...], str]:
    """Return the key that sorts names as people count: log-9 before log-10, and log before its copy log (1)."""
    *folders, file = path.parts
    stem = re.sub(r"(?:\.(?:csv|zip|gz))+$", "", file, flags=re.IGNORECASE)
    return tuple(_natural(part) for part in (*folders, stem)), str(path)


def _natural(text: str) -> _Natural:
    pieces = re.findall(r"[0-9]+|[^0-9]+", text.casefold())
    return tuple((False, int(piece), "") if piece.isdecimal() else (True, 0, piece.rstrip()) for piece in pieces)


# Where exports are found


def _check_named(path: Path) -> None:
    """Make sure that a file that is named is not what stands beside an export.

    Raises:
        InputRefused: it is.
    """
    if _is_companion(path):
        msg = f"export_path: {path} is a file that a system or a program leaves beside others. Name the export itself."
        raise InputRefused(msg)
    if path.name.lower().endswith(_UNFINISHED):
        msg = f"export_path: {path} is a download that is not finished. Wait for it; rename it if it is complete."
        raise InputRefused(msg)


def _of_folder(folder: Path, listing: Listing) -> Iterator[Path]:
    for path in sorted(folder.iterdir(), key=natural_key):
        if path.is_dir():
            if not _COMPANION_FOLDER.fullmatch(path.name):
                listing.passed_over += _in_subfolder(path, folder)
        elif _is_companion(path):
            continue
        elif path.is_file() and _is_read(path.name):
            yield path
        elif reason := _reason(path.name, lambda path=path: _head(path)):  # type: ignore[misc]
            listing.passed_over.append(f"{path.name} ({reason})")


def _of_glob(pattern: Path, listing: Listing) -> Iterator[Path]:
    """Yield what a glob finds; the folders at its beginning that exist by these names are no part of the pattern."""
    fixed = next(parent for parent in pattern.parents if parent.exists())
    rest = str(pattern.relative_to(fixed))
    found = [fixed / one for one in glob.glob(rest, root_dir=fixed, recursive=True)]  # noqa: PTH207 - as documented
    files = {path for path in found if path.is_file()}
    for path in found:
        if path.is_dir():
            below = {below for below, _ in _exports_below(path, MAX_DEPTH)}
            listing.passed_over += [f"{one.relative_to(fixed)} (is in a subfolder)" for one in sorted(below - files)]
        elif not _is_companion(path.relative_to(fixed)):
            if path.name.lower().endswith(_UNFINISHED):
                listing.passed_over.append(f"{path.relative_to(fixed)} (a download that is not finished)")
            elif path in files:
                yield path


def _in_subfolder(folder: Path, top: Path) -> Iterator[str]:
    for path, reason in islice(_exports_below(folder, MAX_DEPTH), MAX_ENTRIES):
        yield f"{path.relative_to(top)} ({reason})"


def _exports_below(folder: Path, depth: int) -> Iterator[tuple[Path, str]]:
    for path in sorted(islice(folder.iterdir(), MAX_ENTRIES)):
        if path.is_dir():
            if depth and not _COMPANION_FOLDER.fullmatch(path.name):
                yield from _exports_below(path, depth - 1)
        elif not _is_companion(path) and (
            _is_read(path.name) or _reason(path.name, lambda path=path: _head(path))  # type: ignore[misc]
        ):
            yield path, "is in a subfolder"


def _of_zip(whole: Export, called: str, listing: Listing) -> Iterator[Export]:
    """Yield the CSVs of a ZIP.

    Raises:
        InputRefused: it is broken, holds no CSV, or one that cannot be unpacked.
    """
    members = [one for one in members_of(whole.source, called) if not _is_companion(PurePath(one.filename))]
    wanted = [member for member in members if member.filename.lower().endswith(".csv")]
    passed_over = list(_passed_over_in_zip(whole, called, members))
    listing.passed_over += passed_over
    if not wanted:
        hint = f" It holds {'; '.join(passed_over[:SHOWN])}." if passed_over else ""
        msg = f"{called}: is a ZIP without a CSV in it.{hint} Is it an Excel workbook? Then save it as CSV."
        raise InputRefused(msg)
    seen: Counter[str] = Counter()
    for member in sorted(wanted, key=lambda one: natural_key(PurePath(one.filename))):
        seen[member.filename] += 1
        mark = f" ({seen[member.filename]}. of this name)" if seen[member.filename] > 1 else ""
        export = replace(whole, member=member, mark=mark)
        check_readable(member, export.label)
        yield export


def _passed_over_in_zip(whole: Export, called: str, members: Iterable[ZipInfo]) -> Iterator[str]:
    for member in members:

        def head(member: ZipInfo = member) -> bytes:
            try:
                check_readable(member, called)
                with open_packed(whole.source, Packing.ZIP, member, called) as file:
                    return file.read(MAX_HEADER_BYTES)
            except InputRefused:
                return b""

        if not member.filename.lower().endswith(".csv") and (reason := _reason(member.filename, head)):
            yield f"{called}!{member.filename} ({reason})"


# What a file is, by its name, and where that does not tell, by how it begins


def _is_companion(path: PurePath) -> bool:
    return bool(_COMPANION.fullmatch(path.name)) or any(part.lower() == "__macosx" for part in path.parts)


def _is_read(name: str) -> bool:
    return name.lower().endswith(READ) and not name.startswith(".")


def _reason(name: str, head: Callable[[], bytes]) -> str | None:
    """Return why what looks like an export is not read; None where it does not look like one."""
    name = PurePath(name).name.lower()
    like_data = bool(_PACKED_OR_TABLE.search(name))
    if name.endswith(_UNFINISHED) and (like_data or not name.endswith((".tmp", ".temp"))):
        return "a download that is not finished"
    if not like_data and not _begins_like_the_log(head()):
        return None
    if not name.endswith(READ):
        return f"only {', '.join(READ)} are read"
    return "its name begins with a dot" if name.startswith(".") else "is packed twice, or is no file"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_HEADER_BYTES)
    except OSError:
        return b""


def _begins_like_the_log(head: bytes) -> bool:
    """Say whether a first row names one of the ids, whatever the delimiter and the encoding."""
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    row = head.decode(encoding, errors="replace").partition("\n")[0]
    return any(column_of(cell.strip().strip('"')).name in REQUIRED for cell in _DELIMITERS.split(row))
