"""Report: the table of a corpus' scored runs on the terminal, RESULTS.md, figures, and a CSV per instrument.

RESULTS.md has a section for each corpus beside the one given; figures and CSV are written for the one given.
Corpora, protocols and backbones never share a table.
"""

import sys
from pathlib import Path

from ast_repr import command, files
from ast_repr.report import plots, results, tables


def main(args):
    found, unscored = results.read(args.exp)
    for folder in unscored:
        print(f"{folder}: not scored yet, left out", file=sys.stderr)
    figures = args.exp / "figures"
    for table in found:
        for stem, figure in plots.draw(table).items():
            plots.save(figure, figures, stem)
    files.write_text(args.exp / "per_instrument.csv", tables.per_instrument(found))
    files.write_text(args.out, tables.document(sections(args.exp, found)))
    for table in found:
        print(f"\n{tables.text(table)}")
    print(f"\nWritten: {args.out}, {args.exp / 'per_instrument.csv'}, {figures}")


def sections(exp, found):
    """{name of a corpus' folder: its tables}: `found` of `exp` first, then each corpus beside it that has scored runs."""
    exp = exp.resolve()
    others = sorted({path.parents[2] for path in exp.parent.glob("*/*/seed*/results.json")} - {exp})
    return {exp.name: found} | {folder.name: results.read(folder)[0] for folder in others}


def parse():
    parser = command.parser(__doc__)
    parser.add_argument("--exp", type=Path, required=True, help="folder of a corpus' runs, exp/<corpus>")
    parser.add_argument("--out", type=Path, required=True, help="RESULTS.md to write")
    return parser


if __name__ == "__main__":
    command.run(main, parse())
