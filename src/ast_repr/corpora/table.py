"""Read CSV tables as spreadsheets and scripts write them; errors name file and row."""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..manifest import ManifestError


def read_text(path: str | Path) -> str:
    """Read a table's text with its line ends, as `csv` expects it.

    It is UTF-8, with or without a byte-order mark, or UTF-16 (Excel's "Unicode text").

    Raises:
        ManifestError: it is neither.
        OSError: it cannot be read.
    """
    data = Path(path).read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{path}: found no UTF-8 text, expected a CSV; from Excel, save it as 'CSV UTF-8'"
        ) from error


def read_rows(path: str | Path, text: str, delimiter: str = ",") -> list[list[str]]:
    """Split a table's text into rows of cells; blank lines are rows without cells.

    Args:
        path: file of the text, for messages.
        text: the text as returned by `read_text`.
        delimiter: the character between cells.

    Raises:
        ManifestError: an unclosed or misplaced quotation mark; the message names the row.
    """
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    rows = []
    try:
        for cells in reader:
            rows.append(cells)
    except csv.Error as error:
        raise ManifestError(
            f"{path}, row {len(rows) + 1}: a quotation mark that is not closed or stands inside a "
            f"cell ({error}); expected them around whole cells, doubled inside: correct this row"
        ) from error
    return rows


def read_columns(
    path: str | Path, names: Sequence[str], layout: str, delimiter: str = ","
) -> Iterator[tuple[int, list[str | None]]]:
    """Yield (row number, cells of the named columns, None if missing); the header is row 1.

    Args:
        path: the table.
        names: of the columns.
        layout: what is expected if there is no table, for the message.
        delimiter: the character between cells.

    Raises:
        ManifestError: no table, or one without some of the columns.
    """
    try:
        rows = read_rows(path, read_text(path), delimiter)
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: missing; {layout}") from error
    header = rows[0] if rows else []
    missing = [name for name in names if name not in header]
    if missing:
        raise ManifestError(
            f"{path}: no column {', '.join(missing)}; found {', '.join(header) or 'nothing'}"
        )
    indices = [header.index(name) for name in names]
    for number, cells in enumerate(rows[1:], 2):
        if cells:
            yield number, [cells[index] if index < len(cells) else None for index in indices]
