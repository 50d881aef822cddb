"""Users' own data: one CSV with a row per clip and a column per class.

    path         an audio file, relative to the CSV's folder
    start        optional: start of the clip of ten seconds within the file, in seconds; default 0
    group        optional: clips that must stay in one split, such as an artist's; default the file
    split        optional: train, test or valid, in all rows or in none
    any other    a class: 1 present, 0 absent, a relevance in between, or empty if unknown

Cells are separated by commas, semicolons or tabs, as Excel writes them, with a decimal comma unless
commas separate cells. Text is UTF-8, or UTF-16 (Excel's "Unicode text"). Excel's line `sep=;`,
blank lines and the row index of pandas are skipped. A path may contain backslashes, or accents that
are composed differently than on disk (macOS).

If no row has a split, random whole groups form the test split until it holds a quarter of the rows,
the proportion of OpenMIC-2018; the choice is seeded and does not depend on the order of rows.

`songs.truth.csv` beside `songs.csv` may say of some clips which classes really sound: the same
columns path and start, and for each class 1 or 0. It is used in scoring alone.
"""

import math
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import manifest
from ..manifest import Clip
from ..registry import unknown
from . import table

COLUMNS = ("path", "start", "group", "split")
DELIMITERS = ",;\t"
SEPARATOR = re.compile(r'"?sep=([,;|\t])"?')  # Excel's first line, which names the delimiter
TEST_FRACTION = 0.25
TEST_SEED = 20182
BREAKS = ("Cc", "Zl", "Zp")  # Unicode categories that would break a line of a manifest

Row = tuple[int, list[str]]  # (row number, cells)
Problem = tuple[int | None, str]  # (row number, reason)


@dataclass(frozen=True)
class Table:
    """The content of a CSV.

    Attributes:
        clips, classes: usable if there are no problems.
        rows: {clip: row number}; the first line of the file is row 1.
        problems: all errors, list of (row number or None, reason).
        notes: sentences on non-empty parts that were skipped.
    """

    clips: list[Clip]
    classes: list[str]
    rows: dict[str, int]
    problems: list[Problem]
    notes: list[str]


def read(path: str | Path, relative_to: str | Path) -> Table:
    """Read a user's CSV. Errors in rows are collected, not raised; audio is not read.

    Args:
        path: the CSV.
        relative_to: folder that the clips' audio paths will be relative to.

    Raises:
        ManifestError: it is not text, or not a CSV.
        OSError: it cannot be read.
    """
    path = Path(path)
    data = Path(relative_to).resolve()
    sheet = _read_alone(path, data)
    clips = sheet.clips
    problems = sheet.problems
    truth_path = path.with_suffix(".truth.csv")
    if truth_path.is_file():
        truth, reasons = _truth(_read_alone(truth_path, data), sheet)
        problems += [(None, f"{truth_path.name}, {reason}") for reason in reasons]
        clips = [replace(clip, truth=truth.get(clip.clip, {})) for clip in clips]
    if clips or not problems:
        problems += _conflicts(clips, sheet.rows)
        if not any(clip.split for clip in clips):
            clips = _with_splits(clips)
        problems += _gaps(clips, sheet.classes)
    problems.sort(key=lambda problem: problem[0] or math.inf)
    return replace(sheet, clips=clips, problems=problems)


def _read_alone(path: Path, data: Path) -> Table:
    """Read a CSV without its truth, splits, or problems that concern several rows."""
    (top, header), records, decimal_comma = _records(path)
    columns, problems, notes = _columns(top, header, records)
    classes = [name for name in columns if name not in COLUMNS]
    if not classes:
        problems.append((top, f"no class; expected a column for each, beside {', '.join(COLUMNS)}"))
    if "path" not in columns:
        names = ", ".join(filter(None, header)) or "nothing"
        problems.append((top, f"no column path; found {names}"))
        return Table([], classes, {}, problems, notes)
    clips = []
    rows = {}
    for row, cells in records:
        texts = {}
        for name, column in columns.items():  # Excel omits delimiters at the end of rows
            texts[name] = cells[column] if column < len(cells) else ""
        clip, reasons = _clip(texts, path.parent.resolve(), data, decimal_comma)
        problems += [(row, reason) for reason in reasons]
        if clip.clip in rows:
            reason = f"the path and start of row {rows[clip.clip]}; expected each once"
            problems.append((row, reason))
        elif clip.clip:
            rows[clip.clip] = row
            clips.append(clip)
    return Table(clips, classes, rows, problems, notes)


def _truth(sheet: Table, labels: Table) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Return the truth in a table, {clip: {class: 0 or 1}}, and its errors.

    `labels` is the table of the same clips' labels.
    """
    reasons = [f"row {row}: {reason}" for row, reason in sheet.problems]
    missing = [name for name in labels.classes if name not in sheet.classes]
    if missing:
        return {}, [*reasons, f"no column {', '.join(missing)}"]
    truth = {}
    for clip in sheet.clips:
        row = sheet.rows[clip.clip]
        if clip.clip not in labels.rows:
            reasons.append(f"row {row}: a clip that is in no row of the other table")
        elif any(clip.labels.get(name) not in (0, 1) for name in labels.classes):
            reasons.append(f"row {row}: expected 1 or 0 for each class")
        else:
            truth[clip.clip] = {name: int(clip.labels[name]) for name in labels.classes}
    return truth, reasons


def _records(path: Path) -> tuple[Row, list[Row], bool]:
    """Split a CSV: (header, other non-empty rows, True if a comma may be a decimal point)."""
    text = table.read_text(path)
    start = next((line for line in text.splitlines() if line.strip()), "")
    separator = SEPARATOR.fullmatch(start.strip(" "))
    delimiter = separator[1] if separator else _delimiter(path, text)
    records = []
    for row, cells in enumerate(table.read_rows(path, text, delimiter), 1):
        if any(cell.strip() for cell in cells):
            records.append((row, cells))
    if separator:
        records = records[1:]
    if not records:
        raise manifest.ManifestError(
            f"{path}: empty; expected a header with path and a column for each class"
        )
    (top, header), *others = records
    return (top, [name.strip() for name in header]), others, delimiter != ","


def _delimiter(path: Path, text: str) -> str:
    """Return the delimiter that splits the header into the most cells."""

    def width(delimiter: str) -> int:
        try:
            rows = table.read_rows(path, text, delimiter)
        except manifest.ManifestError:
            return 0
        return len(next(filter(any, rows), []))

    return max(DELIMITERS, key=width)


def _columns(
    top: int, header: Sequence[str], records: Sequence[Row]
) -> tuple[dict[str, int], list[Problem], list[str]]:
    """Return ({name: column index}, problems, notes); `top` is the row number of the header."""
    columns = {}
    problems = []
    notes = []
    for index, name in enumerate(header):
        name = name.lower() if name.lower() in COLUMNS else name
        if _is_index(name, index, records):
            notes.append("column 1, which has no name and numbers the rows, is ignored")
        elif not name:
            filled = [
                row for row, cells in records if any(map(str.strip, cells[index : index + 1]))
            ]
            if filled:
                reason = f"a cell in column {index + 1}, which has no name"
                problems.append((filled[0], f"{reason}; expected none, or name the column"))
        elif name in columns:
            problems.append((top, f"column {name!r} comes twice; expected once"))
        elif _has_breaks(name):
            reason = f"column {name!r} has a line break or control character"
            problems.append((top, f"{reason}; expected a name in one line"))
        else:
            columns[name] = index
    for row, cells in records:
        if any(cell.strip() for cell in cells[len(header) :]):  # beyond the last column
            reason = f"{len(cells)} cells, expected {len(header)}"
            problems.append((row, f"{reason}; text with the delimiter in it needs quotes"))
    return columns, problems, notes


def _is_index(name: str, index: int, records: Sequence[Row]) -> bool:
    """True for the index that pandas writes: the first column, unnamed, of distinct numbers."""
    if index > 0 or name not in ("", "Unnamed: 0"):
        return False
    cells = [cells[0].strip() for _, cells in records]
    return all(cell.isdecimal() for cell in cells) and len(set(cells)) == len(cells) > 0


def _clip(
    cells: Mapping[str, str], folder: Path, data: Path, decimal_comma: bool
) -> tuple[Clip, list[str]]:
    """Convert a row, {column: text}, to (Clip, reasons); an invalid cell counts as empty."""
    path = cells["path"]
    group = cells.get("group", "").strip()
    split = cells.get("split", "").strip()
    start_text = cells.get("start", "").strip()
    reasons = []
    name = _form_on_disk(folder, os.path.normpath(path)) if path.strip() else ""
    if not name:
        reasons.append("no path")
    elif _is_misread(folder, name):
        reasons.append(
            f"path {name!r} names no file, but file names are read as "
            f"{sys.getfilesystemencoding()} in this locale; set PYTHONUTF8=1 in the environment"
        )
    for column, text in (("path", path), ("group", group)):
        if _has_breaks(text):
            reasons.append(
                f"{column} {text!r} has a line break or control character; "
                "expected one without, rename it"
            )
    start = _number(start_text or "0", decimal_comma)
    if start is None or start < 0:
        reasons.append(f"start {start_text!r}; expected seconds, 0 or more")
        start = 0.0
    if split and split not in manifest.SPLITS:
        reasons.append(unknown("split", split, manifest.SPLITS))
    labels = {}
    for label, text in cells.items():
        text = text.strip()
        if label in COLUMNS or not text:
            continue
        value = _number(text, decimal_comma)
        if value is not None and 0 <= value <= 1:
            labels[label] = value
        else:
            reasons.append(
                f"{label} is {text!r}; expected 1, 0, a number between, "
                "or nothing if it is not known"
            )
    clip = f"{name}@{start:.15g}" if name and start else name
    audio_path = os.path.relpath(folder / name, data)
    return Clip(clip, group or name, audio_path, start, split, labels), reasons


def _form_on_disk(folder: Path, path: str) -> str:
    """Return the form of `path` that names a file, or `path` itself.

    Tried are slashes for backslashes, and composed or decomposed accents (macOS).
    """
    for slashes in (path, path.replace("\\", "/")):
        composed = unicodedata.normalize("NFC", slashes)
        decomposed = unicodedata.normalize("NFD", slashes)
        for form in (slashes, composed, decomposed):
            if os.path.isfile(folder / form):
                return os.path.normpath(form)
    return path


def _is_misread(folder: Path, path: str) -> bool:
    """True if `path` may be missing only because this locale does not read UTF-8 file names."""
    utf8 = sys.getfilesystemencoding().lower() == "utf-8"
    return not utf8 and not path.isascii() and not os.path.isfile(folder / path)


def _conflicts(clips: Sequence[Clip], rows: Mapping[str, int]) -> list[Problem]:
    """Find files with two groups, groups in two splits, and splits in some rows only."""
    problems = []
    groups = {}
    splits = {}
    for clip in clips:
        row = rows[clip.clip]
        group, first = groups.setdefault(clip.audio, (clip.group, row))
        if group != clip.group:
            reason = f"{clip.clip} is of group {clip.group!r}, the same file in row {first} of"
            problems.append((row, f"{reason} {group!r}; expected one for a file"))
        if clip.split not in manifest.SPLITS:
            continue
        split, first = splits.setdefault(clip.group, (clip.split, row))
        if split != clip.split:
            reason = f"group {clip.group!r} is in {clip.split}, in row {first} in {split}"
            problems.append((row, f"{reason}; expected in one split only"))
    without = [rows[clip.clip] for clip in clips if not clip.split]
    if without and len(without) < len(clips):
        reason = f"no split, as in {len(without)} of {len(clips)} rows"
        problems.append((without[0], f"{reason}; expected one in every row, or in none"))
    return problems


def _with_splits(clips: Iterable[Clip]) -> list[Clip]:
    """Divide clips without splits into train and test."""
    train = [replace(clip, split="train") for clip in clips]
    divided = manifest.split_validation(train, TEST_FRACTION, TEST_SEED)
    return [replace(clip, split="test") if clip.split == "valid" else clip for clip in divided]


def _gaps(clips: Sequence[Clip], classes: Iterable[str]) -> list[Problem]:
    """Find splits and labels that training or evaluation would lack."""
    if not clips:
        return [(None, "no rows with a path")]
    problems = []
    splits = {clip.split for clip in clips}
    if splits <= set(manifest.SPLITS):
        for split in ("train", "test"):
            if split not in splits:
                expected = "expected both train and test, and three groups or more"
                problems.append((None, f"no row is in {split}; {expected}"))
        problems += [(None, manifest.without_labels(split)) for split in manifest.unlabelled(clips)]
    observed = {name for clip in clips if clip.split == "train" for name in clip.labels}
    for name in classes:
        if name not in observed:
            expected = "give it some, or leave the column out"
            problems.append((None, f"{name} has no label in training; {expected}"))
    return problems


def _number(text: str, decimal_comma: bool) -> float | None:
    """Parse a finite number; None if it is not one."""
    try:
        value = float(text.replace(",", ".") if decimal_comma else text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _has_breaks(text: str) -> bool:
    return any(unicodedata.category(character) in BREAKS for character in text)
