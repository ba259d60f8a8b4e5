"""Text tables: what can mean one thing only is read, everything else is refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from blemish.data.tables import cells, decoded, numbers
from blemish.errors import DataError

VALUES = np.array([[0.5, -1.25], [0.125, 12.0], [-0.03, 3.004]])


def written(mark: str, decimal: str, head: str = "") -> str:
    rows = [mark.join(f"{v:.3f}".replace(".", decimal) for v in row) for row in VALUES]
    return "\n".join([*([head] if head else []), *rows])


@pytest.mark.parametrize("head", ["", "I{0}II"])
@pytest.mark.parametrize(
    ("mark", "decimal"), [(",", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ","), (" ", "."), (" ", ",")]
)
def test_columns_and_decimal_marks_that_are_clear_are_read(mark: str, decimal: str, head: str) -> None:
    rows = cells(written(mark, decimal, head.format(mark)) + "\n\n")
    np.testing.assert_array_equal(numbers(rows[1:] if head else rows), VALUES)
    assert not head or rows[0] == ["I", "II"]


def test_spreadsheets_write_quotes_empty_cells_and_a_mark_at_the_end() -> None:
    assert cells('"a","b"\n"0,5","1,25"\n') == [["a", "b"], ["0.5", "1.25"]]
    rows = cells("a;b;\n0,5;;\n1;2;\n")
    assert rows[0] == ["a", "b"]
    np.testing.assert_array_equal(numbers(rows[1:]), [[0.5, np.nan], [1, 2]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,5\n-0,25\n0,031\n", "decimal commas"),
        ("0,5,1,2\n0,05,1,3\n", "decimal commas"),
        ("I,II\n0,5,1,2\n", "names 2 columns and holds 4"),
        ("I\n0,5\n0,6\n", "names 1 columns and holds 2"),
        ("I;II\n0,5;1.2\n", r"decimal commas \('0,5'\) and decimal points \('1.2'\)"),
        ("I;II\n1.000,5;1,2\n", r"'1.000,5' is no number"),
        ("I;II\n1,000,5;1,2\n", r"'1,000,5' is no number"),
    ],
)
def test_commas_that_may_mean_two_things_are_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        numbers(cells(text)[1:])
    assert "decimal point" in str(caught.value.hint) or "decimal mark" in str(caught.value.hint)


def test_whole_numbers_between_commas_are_columns() -> None:
    assert cells("10,5\n0,12\n-3,-4\n") == [["10", "5"], ["0", "12"], ["-3", "-4"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["1", "2"], ["3"]], "row 6 has 1 columns, and row 5 has 2"),
        ([["1", "2"], ["3", "4", "5"]], "row 6 has 3 columns, and row 5 has 2"),
        ([["1", "2"], ["3", "x"]], "row 6, column 2: 'x'"),
        ([], "holds no numbers"),
    ],
)
def test_rows_that_are_no_table_are_named(rows: list[list[str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        numbers(rows, 5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("I,II\n1,2\n".encode("utf-16"), "UTF-16"),
        ("I,II\n1,2\n".encode("utf-16-le"), "UTF-16"),
        ("I,II\nSpannung µV,2\n".encode("latin-1"), "no text in UTF-8 .byte 0xb5 in line 2"),
    ],
)
def test_other_encodings_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        decoded(data)
    assert caught.value.hint == "save it as UTF-8"
    assert decoded("µ".encode("utf-8-sig")) == "µ"
