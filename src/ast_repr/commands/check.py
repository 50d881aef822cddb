"""Check a CSV of your own data: list its problems, and count its clips and labels.

    ast-repr check songs.csv

Nothing is written. The format is described in egs/README.md.
"""

import shlex
from argparse import Namespace
from pathlib import Path

from .. import cli, escaping, manifest
from ..corpora import custom, inspection
from ..corpora.inspection import counted


def main(args: Namespace) -> None:
    """Check the CSV."""
    check(args.csv)


def check(path: Path) -> None:
    """Print all problems of a CSV and its audio, its counts, and warnings.

    Raises:
        ManifestError: it has problems.
    """
    table = custom.read(path, relative_to=path.parent)
    problems = inspection.find_problems(table)
    clips = inspection.with_validation(table.clips)
    warnings = []
    if not problems:
        hashes = inspection.audio_hashes(clips, path.parent)
        warnings = inspection.find_warnings(clips, table.classes, hashes)
    for name, reason in inspection.unusable_audio(path.parent, table.clips, cli.warn).items():
        problems.append((table.rows[name], f"{name}: {reason}"))
    lines = [f"  note: {note}" for note in table.notes]
    lines += [f"  {inspection.line(*problem)}" for problem in problems]
    lines += inspection.counts(clips, table.classes)
    lines += [f"  warning: {warning}" for warning in warnings]
    print("\n".join(map(escaping.terminal, lines)))
    if problems:
        raise manifest.ManifestError(
            f"{path}: {counted(problems, 'problem')}, listed above; fix them and check again"
        )
    state = f"in order, with {counted(warnings, 'warning')}" if warnings else "in order"
    print(
        f"{path} is {state}; bash egs/custom/run.sh --manifest {shlex.quote(str(path))} "
        "trains on it"
    )


def parse() -> cli.Parser:
    """Return the parser of the options."""
    parser = cli.parser(__doc__)
    parser.add_argument("csv", type=Path, metavar="CSV", help="the CSV")
    return parser
