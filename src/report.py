"""Report: tables of a corpus' evaluated runs on the terminal and as RESULTS.md, figures, and a CSV.

A recipe's page stands beside the runs, exp/<corpus>/RESULTS.md. The page of the repository, with a
section for each corpus, is made by its maintainers:

    python src/report.py --exp exp/synthetic --all-corpora --out RESULTS.md --conf-dir conf

Its front page gets the main job's table and, beside RESULTS.md, the picture overview.png; with
--all-corpora also the differences that contrasts.yaml asks for:

    python src/report.py --exp exp/synthetic --readme ../../README.md --conf-dir conf

Corpora, protocols and backbones never share a table. In each, macro-F1 is compared with that of a
reference method, on the truth if the corpus knows it. With --compare, two methods are compared,
paired by clip and seed.

A run that is not evaluated yet, damaged, of another folder or not comparable is left out; stderr
says which and why, and the exit code stays 0. It is 1 only if no run is left.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import argparse
import sys
from pathlib import Path

from ast_repr import atomic, choices, cli, escaping
from ast_repr.report import (
    compare,
    contrasts,
    front_page,
    pages,
    plots,
    published,
    results,
    studies,
    style,
    tables,
)
from ast_repr.report.schema import OBSERVED, TRUTH


def main(args: argparse.Namespace) -> None:
    if not (args.out or args.compare or args.readme):
        raise cli.UsageError(
            "nothing to do; expected --out RESULTS.md, --compare A B, or --readme README.md"
        )
    atomic.sweep(args.exp)
    entries = {}
    known = []
    if args.conf_dir:
        entries, known = read_conf_dir(args.conf_dir, _names(args.conf))
    exp_tables = read_tables(args.exp, entries)
    if not exp_tables:
        raise results.ResultsError(
            f"{args.exp}: none of its runs can be reported, for the reasons above; "
            "expected one evaluated run or more, run: source run.sh"
        )
    check_methods(args, {conf for table in exp_tables for conf in table.confs})
    sections = {args.exp.resolve().name: exp_tables}
    if args.all_corpora:
        sections |= read_others(args.exp.resolve(), entries)
    if args.out:
        write_report(args, sections, known)
    if args.compare:
        compare_methods(args, exp_tables)
    if args.readme:
        write_front_page(args, sections)


def read_conf_dir(
    folder: Path, requested: list[str]
) -> tuple[dict[str, published.Entry], list[studies.Study]]:
    """Read published.yaml and studies.yaml, if they exist."""
    if not folder.is_dir():
        raise cli.UsageError(f"--conf-dir {folder}: no such folder")
    entries = {}
    known = []
    if (folder / "published.yaml").is_file():
        entries = published.read(folder / "published.yaml")
    if (folder / "studies.yaml").is_file():
        known = studies.read(folder / "studies.yaml", requested)
    return entries, known


def read_tables(exp: Path, entries: dict[str, published.Entry]) -> list[results.Table]:
    """Read the tables of a corpus' runs; list on stderr what is left out."""
    exp_tables, left_out = results.read(exp, entries)
    for reason in left_out:
        print(escaping.terminal(f"left out: {reason}"), file=sys.stderr)
    return exp_tables


def read_others(exp: Path, entries: dict[str, published.Entry]) -> dict[str, list[results.Table]]:
    """Read the tables of the corpora beside `exp`, by their folders."""
    folders = {path.parents[2] for path in exp.parent.glob("*/*/seed*/results.json")} - {exp}
    return {folder.name: read_tables(folder, entries) for folder in sorted(folders)}


def check_methods(args: argparse.Namespace, confs: set[str]) -> None:
    """Refuse options that name a method without runs."""
    named = _names(args.methods) + (args.compare or [])
    if args.reference != pages.REFERENCE:
        named.append(args.reference)
    for name in named:
        if name not in confs:
            raise cli.UsageError(choices.unknown("method", name, confs))


def write_report(
    args: argparse.Namespace,
    sections: dict[str, list[results.Table]],
    known: list[studies.Study],
) -> None:
    """Write the tables of all sections; print those of the first and draw its figures."""
    if args.out.is_file() and not args.out.read_bytes().startswith(pages.HEAD.encode()):
        raise cli.UsageError(
            f"{args.out}: not a page of results that was made here; name another file (--out)"
        )
    document = {}
    for name, section in sections.items():
        if section:
            document[name] = [pages.blocks(table, known, args.reference) for table in section]
    name, exp_tables = next(iter(sections.items()))
    atomic.write_text(args.exp / "per_instrument.csv", tables.per_instrument(exp_tables))
    atomic.write_text(args.out, pages.document(document))
    for page in document[name]:
        print(f"\n{pages.text(page)}", flush=True)
    figures = args.exp / "figures"
    for table in exp_tables:
        for stem, figure in plots.draw(table, known, _names(args.methods)).items():
            style.save(figure, figures, stem)
    written = f"Written: {args.out}, {args.exp / 'per_instrument.csv'}, {figures}"
    print(f"\n{escaping.terminal(written)}")


def compare_methods(args: argparse.Namespace, exp_tables: list[results.Table]) -> None:
    """Compare two methods in each table that has both, on observed labels and, if known, the truth.

    Each comparison is a line, a figure, and all numbers as JSON.
    """
    shared = [table for table in exp_tables if len(table.only(args.compare).methods) == 2]
    if not shared:
        raise results.ResultsError(
            f"{' and '.join(args.compare)} are in no common table; "
            "expected two methods of one protocol and backbone"
        )
    for table in shared:
        pair = table.only(args.compare).methods
        known = [OBSERVED]
        if all(method.metrics(TRUTH) for method in pair):
            known.append(TRUTH)
        for labels in known:
            comparison = compare.compare(*pair, labels)
            stem, figure = plots.draw_difference(table, comparison)
            paths = style.save(figure, args.exp / "figures", stem)
            atomic.write_json(args.exp / "figures" / f"{stem}.json", comparison)
            written = f"Written: {paths[0].with_suffix('.*')}"
            for line in ("", table.title, compare.sentence(comparison), written):
                print(escaping.terminal(line))


def write_front_page(args: argparse.Namespace, sections: dict[str, list[results.Table]]) -> None:
    """Write tables, and the picture of a reprogrammed clip, for the README."""
    every = [table for section in sections.values() for table in section]
    table = every[0]
    front_page.insert_table(args.readme, "table", pages.accuracy_markdown(table, args.reference))
    if args.all_corpora and args.conf_dir:
        lines = contrasts.lines(every, contrasts.read(args.conf_dir / "contrasts.yaml"))
        front_page.insert_table(args.readme, "findings", pages.table_markdown(lines))
    with_example = [run for run in table.main.runs if run.has_example]
    if with_example:
        figure = front_page.draw_overview(with_example[-1])
        folder = args.readme.parent / "egs" / "openmic"
        style.save(figure, folder, "overview", kinds=("png",))


def _names(text):
    return [name.strip() for name in text.split(",") if name.strip()]


def parse() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--exp", type=Path, required=True, help="folder of a corpus' runs, exp/<corpus>"
    )
    parser.add_argument("--out", type=Path, help="page to write, such as RESULTS.md")
    parser.add_argument(
        "--all-corpora",
        action="store_true",
        help="give each corpus beside this one a section of the page",
    )
    parser.add_argument(
        "--conf-dir",
        type=Path,
        help="folder with studies.yaml and published.yaml (names of methods, published results)",
    )
    parser.add_argument(
        "--conf",
        default="",
        metavar="A,B,...",
        help="studies, confs and variants that were asked for: their studies are shown even if "
        "methods are missing, others only if they are complete",
    )
    parser.add_argument(
        "--methods",
        default="",
        metavar="A,B,...",
        help="confs for the figure of instruments; default: at most six, one of each kind first",
    )
    parser.add_argument(
        "--reference",
        metavar="CONF",
        default=pages.REFERENCE,
        help="the method that the tables compare the others with, unless a study names one "
        "(default: %(default)s, if it was run)",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two confs: the difference B - A, with a bootstrap interval",
    )
    parser.add_argument(
        "--readme", type=Path, help="README of the repository, whose table is written again"
    )
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
