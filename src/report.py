"""Report: tables of a corpus' scored runs on the terminal, RESULTS.md, figures, CSV per instrument.

RESULTS.md has a section for each corpus beside the one given; figures and CSV are written for the
one given. Corpora, protocols and backbones never share a table. With --compare, two rows are
compared, paired by clip and seed.

A run that is not scored yet, damaged, of another folder or not comparable is left out; stderr says
which and why, and the exit code stays 0. It is 1 only if no run is left.
"""

import sys
from pathlib import Path

import yaml

from ast_repr import command, files, rooms
from ast_repr.report import compare, plots, results, studies, style, tables


def main(args):
    if not (args.out or args.compare):
        raise command.UsageError("nothing to make; expected --out RESULTS.md, or --compare A B")
    found = read_tables(args.exp)
    if not found:
        raise results.ResultsError(
            f"{args.exp}: none of its runs can be reported, the reasons are listed above; "
            "expected one scored run or more, run: source run.sh"
        )
    names = [name.strip() for name in args.rows.split(",")] if args.rows else []
    known = {row.conf for table in found for row in table.rows}
    for name in names + (args.compare or []):
        if name not in known:
            raise command.UsageError(rooms.unknown("row", name, known))
    if args.out:
        asked = [name.strip() for name in args.conf.split(",")]
        report(args, found, read_studies(args.studies, asked), names)
    if args.compare:
        compare_rows(args, found)


def read_tables(exp):
    """The tables of a corpus' runs; what is left out is listed on stderr."""
    found, left_out = results.read(exp)
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    return found


def report(args, found, known, names):
    """Tables and figures; `known`: studies, `names`: rows for the bars of instruments."""
    figures = args.exp / "figures"
    for table in found:
        for stem, figure in plots.draw(table, known, names).items():
            style.save(figure, figures, stem)
    files.write_text(args.exp / "per_instrument.csv", tables.per_instrument(found))
    files.write_text(args.out, tables.document(sections(args.exp, found), known))
    for table in found:
        if table.main.rows:
            print(f"\n{tables.text(table.main)}")
        for study in known:
            rows = study.table(table)
            if rows:
                print(f"\n{tables.study_text(study, rows)}")
    print(f"\nWritten: {args.out}, {args.exp / 'per_instrument.csv'}, {figures}")


def compare_rows(args, found):
    """Compare two rows wherever they share a table: a line, a figure, and all numbers as JSON."""
    shared = [table for table in found if len(table.only(args.compare).rows) == 2]
    if not shared:
        raise results.ResultsError(
            f"{' and '.join(args.compare)} are in no common table; "
            "expected two rows of one protocol and backbone"
        )
    for table in shared:
        difference = compare.compare(*table.only(args.compare).rows)
        stem, figure = plots.draw_difference(table, difference)
        paths = style.save(figure, args.exp / "figures", stem)
        files.write_json(args.exp / "figures" / f"{stem}.json", difference)
        print(f"\n{table.title}\n{compare.sentence(difference)}")
        print(f"Written: {paths[0].with_suffix('.*')}")


def read_studies(path, asked):
    """The studies of a YAML file, those that were `asked` for marked; none without a file."""
    if path is None:
        return []
    try:
        return studies.parse(yaml.safe_load(files.read_text(path)), path, asked)
    except yaml.YAMLError as error:
        raise studies.StudyError(f"{path}: not YAML ({error}); expected studies by name") from error


def sections(exp, found):
    """{corpus' folder: its tables}: `exp` first, then the folders beside it with scored runs."""
    exp = exp.resolve()
    made = {exp.name: found}
    others = sorted({path.parents[2] for path in exp.parent.glob("*/*/seed*/results.json")} - {exp})
    for folder in others:
        tables_there = read_tables(folder)
        if tables_there:
            made[folder.name] = tables_there
    return made


def parse():
    parser = command.parser(__doc__)
    parser.add_argument(
        "--exp", type=Path, required=True, help="folder of a corpus' runs, exp/<corpus>"
    )
    parser.add_argument("--out", type=Path, help="RESULTS.md to write")
    parser.add_argument(
        "--conf",
        default="",
        metavar="A,B,...",
        help="what was asked for: studies, confs, variants; their studies are shown though rows "
        "are missing, others only if all rows are there",
    )
    parser.add_argument(
        "--studies",
        type=Path,
        help="YAML file of studies: questions, each with the rows that answer it",
    )
    parser.add_argument(
        "--rows",
        metavar="A,B,...",
        help="rows for the figure of instruments; default: at most six, one of each kind first",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two rows: the difference B - A, with a bootstrap interval",
    )
    return parser


if __name__ == "__main__":
    command.run(main, parse())
