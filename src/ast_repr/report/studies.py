"""Studies: rows, variants among them, that answer one question; read from conf/studies.yaml.

normalisation:
  question: Is it reprogramming or re-normalisation?
  confs: [ast_linear, ast_linear+input.norm=none]    # in this order; runs of plain confs are shared
  figure: bars        # or labels: macro-F1 against the fraction of training labels; or left out
  against: ast_linear    # optional: difference of each row from this one, with its interval

A study is shown if it was asked for, by its name or that of a variant in it, or if all of its rows
were run.
"""

from dataclasses import dataclass

FIGURES = ("bars", "labels")
KEYS = {"question": str, "confs": list, "figure": str, "against": str}
NEEDED = ("question", "confs")


class StudyError(ValueError):
    """A study that makes no sense; the message names the file, the study, and what was expected."""


@dataclass(frozen=True)
class Study:
    """A question and the rows that answer it.

    Attributes:
        name, question: of the study.
        confs: its rows, in order.
        figure: one of FIGURES, or None.
        against: the conf that the others are compared with, or None.
        asked: whether it was asked for.
    """

    name: str
    question: str
    confs: list
    figure: str | None = None
    against: str | None = None
    asked: bool = False

    def table(self, table):
        """The rows of `table` that belong to the study, in the study's order, as a Table.

        None if the study is not to be shown: it has fewer than two rows there, or some of its rows
        are missing and nobody asked for it.
        """
        if self.not_run(table) and not self.asked:
            return None
        rows = table.only(self.confs)
        return rows if len(rows.rows) > 1 else None

    def not_run(self, table):
        """Names of the study's rows that `table` lacks."""
        there = {row.conf for row in table.rows}
        return [conf for conf in self.confs if conf not in there]


def parse(found, source, asked=()) -> list[Study]:
    """Studies from what a YAML file holds.

    Args:
        found: dict of a study's name to its dict.
        source: the file's name, for messages.
        asked: names of studies, confs and variants that were asked for.

    Returns:
        list of Study, in the file's order.

    Raises:
        StudyError: see the module's docstring for what is expected.
    """
    if not isinstance(found, dict):
        raise StudyError(
            f"{source}: holds a {type(found).__name__}, expected studies by name, "
            f"each with {' and '.join(NEEDED)}"
        )
    return [
        _study(str(name), about, f"{source}: study {str(name)!r}", asked)
        for name, about in found.items()
    ]


def _study(name, about, where, asked):
    if not isinstance(about, dict) or not set(NEEDED) <= set(about) <= set(KEYS):
        keys = ", ".join(map(str, about)) if isinstance(about, dict) else repr(about)
        optional = [key for key in KEYS if key not in NEEDED]
        raise StudyError(
            f"{where}: has {keys or 'nothing'}; expected {', '.join(NEEDED)} and, "
            f"if wanted, {' or '.join(optional)}"
        )
    for key, value in about.items():
        if not isinstance(value, KEYS[key]):
            raise StudyError(f"{where}: {key} is {value!r}, expected a {KEYS[key].__name__}")
    confs = about["confs"]
    if not all(isinstance(conf, str) for conf in confs) or len(set(confs)) < max(2, len(confs)):
        raise StudyError(
            f"{where}: confs is {confs!r}, expected two or more names of rows, each once"
        )
    if about.get("figure", FIGURES[0]) not in FIGURES:
        raise StudyError(f"{where}: figure is {about['figure']!r}, expected {' or '.join(FIGURES)}")
    if about.get("against", confs[0]) not in confs:
        raise StudyError(f"{where}: against is {about['against']!r}, expected one of its confs")
    variants = {conf for conf in confs if "+" in conf}
    return Study(name, asked=not {name, *variants}.isdisjoint(asked), **about)
