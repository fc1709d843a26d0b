"""Text files and JSON from anywhere, read so that one bad line cannot take the others with it."""

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from optformer.convert.json_text import parse
from optformer.errors import SourceError, StudyError

LONGEST_LINE = 64 << 20
"""Bytes of a line, unpacked. A few bytes of gzip can hold a line that no memory can."""

LARGEST_DOCUMENT = 256 << 20
"""Bytes of a file that has to be read as a whole, unpacked."""

_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_UNREADABLE = (OSError, EOFError, zlib.error, zipfile.BadZipFile)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a file.

    Attributes:
      number: from 1.
      text: with its line end; "" if the line cannot be used.
      done: share of the file that is read.
      fault: why the line cannot be used; "" if it can.
    """

    number: int
    text: str
    done: float
    fault: str = ""


def lines(path: Path) -> Iterator[Line]:
    """The lines of a text file, plain or packed, without a byte-order mark.

    A line longer than `LONGEST_LINE` is passed over in small pieces; it and a line that is not
    UTF-8 come with their `fault`.

    Raises:
      SourceError: the file cannot be read, or is UTF-16.
    """
    size, limit = max(path.stat().st_size, 1), LONGEST_LINE
    number = 0
    try:
        with path.open("rb") as raw, _unpacked(raw) as file:
            while data := file.readline(limit + 1):
                number += 1
                if number == 1:
                    if data.startswith(_UTF16):
                        raise SourceError(f"{path} is UTF-16 text. Save it as UTF-8.")
                    data = data.removeprefix(b"\xef\xbb\xbf")
                text, fault = "", ""
                if len(data) > limit:
                    while data and not data.endswith(b"\n"):
                        data = file.readline(_CHUNK)
                    fault = f"the line is longer than {limit >> 20} MiB"
                else:
                    try:
                        text = data.decode("utf-8")
                    except UnicodeDecodeError as error:
                        fault = f"the line is not UTF-8 text ({error.reason})"
                yield Line(number=number, text=text, done=raw.tell() / size, fault=fault)
    except _UNREADABLE as error:
        raise SourceError(
            f"{path} cannot be read after line {number} ({error}). Copy or export it again."
        ) from error


def head(path: Path, size: int = 65536) -> bytes:
    """The first bytes of a file, unpacked.

    Raises:
      SourceError: the file cannot be read.
    """
    try:
        with path.open("rb") as raw, _unpacked(raw) as file:
            return file.read(size)
    except _UNREADABLE as error:
        raise SourceError(
            f"{path} cannot be read ({error}). Check its permissions, or copy it again."
        ) from error


def document(path: Path) -> object:
    """What a whole JSON file says, plain or packed.

    Raises:
      SourceError: it cannot be read, is too large, or is not JSON.
    """
    try:
        with path.open("rb") as raw, _unpacked(raw) as file:
            data = file.read(LARGEST_DOCUMENT + 1)
    except _UNREADABLE as error:
        raise SourceError(f"{path} cannot be read ({error}). Copy or export it again.") from error
    if len(data) > LARGEST_DOCUMENT:
        raise SourceError(
            f"{path} holds more than {LARGEST_DOCUMENT >> 20} MiB of JSON in one piece. "
            "Export its studies one by one."
        )
    try:
        return parse(data.decode("utf-8-sig"))
    except (UnicodeDecodeError, StudyError) as error:
        raise SourceError(f"{path}: {error} Export it again, or name another --format.") from error


def _unpacked(raw: io.BufferedReader) -> io.BufferedIOBase:
    """The file itself, or the contents of gzip or of a zip archive with one file."""
    magic = raw.peek(4)[:4]
    if magic.startswith(_GZIP):
        return gzip.GzipFile(fileobj=raw)
    if magic == _ZIP:
        with zipfile.ZipFile(raw) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise SourceError(
                    f"{raw.name} is a zip archive of {len(names)} files. Unpack it, and import the "
                    "one with the trials."
                )
            return cast(io.BufferedIOBase, archive.open(names[0]))
    return raw
