"""Report: tables of a corpus' scored runs on the terminal and as RESULTS.md, figures, and a CSV.

The stage's page stands beside the runs, exp/<corpus>/RESULTS.md. The page of a repository is made
if asked for, with a section for each corpus beside the one given:

    python src/report.py --exp exp/synthetic --beside --out RESULTS.md --studies conf/studies.yaml

Corpora, protocols and backbones never share a table. With --compare, two methods are compared,
paired by clip and seed.

A run that is not scored yet, damaged, of another folder or not comparable is left out; stderr says
which and why, and the exit code stays 0. It is 1 only if no run is left.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import sys
from pathlib import Path

from ast_repr import atomic, cli, escaping, registry, yaml_file
from ast_repr.report import compare, plots, results, studies, style, tables


def main(args):
    if not (args.out or args.compare):
        raise cli.UsageError("nothing to make; expected --out RESULTS.md, or --compare A B")
    atomic.sweep(args.exp)
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
            raise cli.UsageError(registry.unknown("row", name, known))
    if args.out:
        claim(args.out)
        asked = [name.strip() for name in args.conf.split(",")]
        report(args, found, read_studies(args.studies, asked), names)
    if args.compare:
        compare_rows(args, found)


def read_tables(exp):
    """The tables of a corpus' runs; what is left out is listed on stderr."""
    found, left_out = results.read(exp)
    for reason in left_out:
        print(escaping.terminal(f"left out: {reason}"), file=sys.stderr)
    return found


def report(args, found, known, names):
    """Tables and figures.

    Args:
        found: list of results.Table.
        known: list of studies.Study.
        names: rows for the bars of instruments.
    """
    figures = args.exp / "figures"
    for table in found:
        for stem, figure in plots.draw(table, known, names).items():
            style.save(figure, figures, stem)
    atomic.write_text(args.exp / "per_instrument.csv", tables.per_instrument(found))
    atomic.write_text(args.out, tables.document(sections(args.exp, found, args.beside), known))
    for table in found:
        if table.main.rows:
            print(f"\n{tables.text(table.main)}")
        for study in known:
            rows = study.table(table)
            if rows:
                print(f"\n{tables.study_text(study, rows)}")
    written = f"Written: {args.out}, {args.exp / 'per_instrument.csv'}, {figures}"
    print(f"\n{escaping.terminal(written)}")


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
        atomic.write_json(args.exp / "figures" / f"{stem}.json", difference)
        said = (table.title, compare.sentence(difference), f"Written: {paths[0].with_suffix('.*')}")
        print("", *map(escaping.terminal, said), sep="\n")


def read_studies(path, asked):
    """The studies of a YAML file, those that were `asked` for marked; none without a file."""
    if path is None:
        return []
    try:
        return studies.parse(yaml_file.read(path), path, asked)
    except yaml_file.YamlError as error:
        raise studies.StudyError(str(error)) from error


def sections(exp, found, beside):
    """{name of a corpus' folder: its tables}.

    Args:
        exp: folder of a corpus' runs; `found`: its tables.
        beside: whether each corpus beside it that has scored runs follows.
    """
    exp = exp.resolve()
    out = {exp.name: found}
    if beside:
        folders = {path.parents[2] for path in exp.parent.glob("*/*/seed*/results.json")}
        for folder in sorted(folders - {exp}):
            others = read_tables(folder)
            if others:
                out[folder.name] = others
    return out


def claim(out):
    """Refuse to write the page over a file that this script has not made."""
    head = tables.document({}).rstrip("\n").encode()
    if out.is_file() and not out.read_bytes().startswith(head):
        raise cli.UsageError(
            f"{out}: not a page of results that was made here; name another file (--out)"
        )


def parse():
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--exp", type=Path, required=True, help="folder of a corpus' runs, exp/<corpus>"
    )
    parser.add_argument("--out", type=Path, help="page to write, such as RESULTS.md")
    parser.add_argument(
        "--beside",
        action="store_true",
        help="give each corpus beside this one a section of the page",
    )
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
    cli.run(main, parse())
