"""Numbers in text files: their encoding, separator and decimal mark.

Only unambiguous text is read: columns between commas, semicolons, tabs or blanks, with decimal points; and with
decimal commas where something else separates the columns (`0,5;1,2`, as spreadsheets of many countries write it). Text
that is not UTF-8, rows of different lengths, and commas that may be either mark are refused.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from io import StringIO

import numpy as np
from numpy.typing import NDArray

from blemish.errors import DataError

COMMAS = "decimal commas?"
POINTS = "save it with decimal points, or with semicolons between the columns"
_UTF8 = "save it as UTF-8"
_DECIMAL = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")


def decoded(data: bytes, *, numbers_alone: bool = False) -> str:
    """The text of a file in UTF-8; DataError for any other encoding.

    `numbers_alone`: no word of it is kept, so comments may be in any encoding whose digits are those of ASCII.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("is text in UTF-16, not in UTF-8", hint=_UTF8)
    try:
        text = data.decode("utf-8-sig", "replace" if numbers_alone else "strict")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"is no text in UTF-8 (byte {data[error.start]:#04x} in line {line})", hint=_UTF8) from None
    if "\0" in text:
        raise DataError("holds zero bytes: it is no text, or in UTF-16", hint=_UTF8)
    return text


def cells(text: str) -> list[list[str]]:
    """Rows of cells, without empty rows; numbers have decimal points. DataError where commas may mean two things."""
    lines = text.splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "")
    mark = _separator(last)
    if mark == " ":
        rows = [line.split() for line in lines if line.strip()]
    else:
        rows = [row for row in csv.reader(StringIO(text, newline=""), delimiter=mark) if any(map(str.strip, row))]
    while rows and len(rows[0]) > 1 and all(not row[-1].strip() for row in rows):  # each line ends with the separator
        rows = [row[:-1] for row in rows]
    if mark != "," or '"' in last:
        return _pointed(rows)
    _refuse_split_numbers(rows)
    return rows


def plain(lines: Sequence[str]) -> list[str]:
    """Lines of numbers with blanks between columns and decimal points. DataError where commas may mean two things."""
    if not lines:
        return []
    mark = _separator(lines[-1])
    if mark == ",":
        _refuse_split_numbers([line.split(",") for line in lines])
        return [line.replace(",", " ") for line in lines]
    commas = next((line for line in lines if "," in line), None)
    if commas is None:
        return [line.replace(mark, " ") for line in lines]
    _pointed([line.replace(mark, " ").split() for line in (commas, next((s for s in lines if "." in s), commas))])
    return [line.replace(",", ".").replace(mark, " ") for line in lines]


def numeric(row: Sequence[str]) -> bool:
    """Whether all cells that are not empty are numbers."""
    try:
        [float(cell) for cell in row if cell.strip()]
    except ValueError:
        return False
    return True


def numbers(rows: Sequence[Sequence[str]], first: int = 1) -> NDArray[np.float64]:
    """(rows, columns) float64; an empty cell is NaN. `first` is the number of the first row in the file, for people.

    DataError for rows of different lengths, naming one, and for a cell that is no number.
    """
    if not rows or not rows[0]:
        raise DataError("holds no numbers", hint="a row for each sample, a column for each value")
    for k, row in enumerate(rows):
        if len(row) != len(rows[0]):
            message = f"row {first + k} has {len(row)} columns, and row {first} has {len(rows[0])}"
            hint = f"correct the row; {COMMAS}" if len(row) > len(rows[0]) else "correct the row"
            raise DataError(message, hint=hint)
    try:
        return np.array([[float(cell) if cell.strip() else math.nan for cell in row] for row in rows], np.float64)
    except ValueError:
        raise _no_number(rows, first) from None


def _no_number(rows: Sequence[Sequence[str]], first: int) -> DataError:
    for k, row in enumerate(rows):
        for column, cell in enumerate(row):
            if not numeric([cell]):
                return DataError(
                    f"is no table of numbers (row {first + k}, column {column + 1}: '{cell.strip()[:40]}')",
                    hint="a row for each sample, a column for each value",
                )
    raise AssertionError("all cells are numbers")


def _separator(line: str) -> str:
    """The separator of a line of numbers: one of `;`, tab, `,` and blank."""
    for mark in ";\t":
        if mark in line:
            return mark
    words = line.split()
    if len(words) > 1 and ("," not in line or any(_DECIMAL.fullmatch(word) for word in words)):
        return " "
    return ","


def _pointed(rows: list[list[str]]) -> list[list[str]]:
    """The rows with decimal points, where their numbers have decimal commas. DataError where they have both."""
    body = rows[1:] if rows and not numeric([cell.replace(",", ".") for cell in rows[0]]) else rows
    commas = next((cell for row in body for cell in row if "," in cell), None)
    if commas is None:
        return rows
    if not _DECIMAL.fullmatch(commas.strip()):
        raise DataError(f"'{commas.strip()[:40]}' is no number", hint=POINTS)
    points = next((cell for row in body for cell in row if "." in cell), None)
    if points is not None:
        message = f"has decimal commas ('{commas.strip()}') and decimal points ('{points.strip()}')"
        raise DataError(message, hint="save it with one decimal mark, and without one between thousands")
    head = rows[: len(rows) - len(body)]
    return head + [[cell.replace(",", ".") for cell in row] for row in body]


def _refuse_split_numbers(rows: Sequence[Sequence[str]]) -> None:
    """DataError where commas between columns seem to be decimal marks: `-0,05` would be two columns, -0 and 05."""
    body = rows[1:] if rows and not numeric(rows[0]) else rows
    if len(body) < len(rows) and body and len(body[0]) == 2 * len(rows[0]):
        message = f"names {len(rows[0])} columns and holds {len(body[0])}: {COMMAS}"
        raise DataError(message, hint=POINTS)
    if not body or len(body[0]) % 2 or not all(_WHOLE.fullmatch(cell.strip()) for cell in body[0]):
        return
    for row in body:
        for before, after in zip(row[::2], row[1::2], strict=False):
            if before.strip() == "-0" or re.fullmatch(r"0\d+", after.strip()):
                raise DataError(f"'{before.strip()},{after.strip()}' are no two numbers: {COMMAS}", hint=POINTS)
