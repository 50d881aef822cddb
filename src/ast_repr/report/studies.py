"""Studies: confs and variants that answer one question, from conf/studies.yaml.

normalisation:
  question: Is it reprogramming or re-normalisation?
  confs: [ast_linear, ast_linear+input.norm=none]    # in this order
  figure: bars        # or labels: macro-F1 against the fraction of training labels; optional
  against: ast_linear    # optional: the difference of each from this one, with its interval

A study is shown if all of its confs were run, or if it was asked for, by its name or by that of a
variant in it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .. import yaml_file
from .results import Table

FIGURES = ("bars", "labels")
KEYS = {"question": str, "confs": list, "figure": str, "against": str}
REQUIRED = ("question", "confs")


class StudyError(ValueError):
    """An unusable study; the message names the file, the study, and what was expected."""


@dataclass(frozen=True)
class Study:
    """A question and the confs that answer it, in order.

    Attributes:
        figure: one of FIGURES, or None.
        against: the conf that the others are compared with, or None.
        requested: whether it was asked for.
    """

    name: str
    question: str
    confs: list[str]
    figure: str | None = None
    against: str | None = None
    requested: bool = False

    def table(self, table: Table) -> Table | None:
        """The study's methods in `table`, in the study's order.

        None if the study is not to be shown: it has fewer than two methods there, or some are
        missing and it was not asked for.
        """
        if self.missing(table) and not self.requested:
            return None
        methods = table.only(self.confs)
        return methods if len(methods.methods) > 1 else None

    def missing(self, table: Table) -> list[str]:
        """The study's confs that `table` lacks."""
        return [conf for conf in self.confs if conf not in table.confs]


def read(path: Path, requested: Collection[str] = ()) -> list[Study]:
    """Read studies, in the file's order.

    Args:
        requested: names of studies, confs and variants that were asked for.

    Raises:
        StudyError: the file is not YAML, or not as described above.
    """
    try:
        return parse(yaml_file.read(path), path, requested)
    except yaml_file.YamlError as error:
        raise StudyError(str(error)) from error


def parse(values: object, source: object, requested: Collection[str] = ()) -> list[Study]:
    """Build studies from the values of a YAML file; see `read`.

    Args:
        source: the file's name, for messages.
    """
    if not isinstance(values, dict):
        raise StudyError(
            f"{source}: holds a {type(values).__name__}, expected studies by name, "
            f"each with {' and '.join(REQUIRED)}"
        )
    studies = []
    for name, study in values.items():
        studies.append(_study(str(name), study, f"{source}: study {str(name)!r}", requested))
    return studies


def _study(name, values, where, requested):
    if not isinstance(values, dict) or not set(REQUIRED) <= set(values) <= set(KEYS):
        keys = ", ".join(map(str, values)) if isinstance(values, dict) else repr(values)
        optional = [key for key in KEYS if key not in REQUIRED]
        raise StudyError(
            f"{where}: has {keys or 'nothing'}; expected {', '.join(REQUIRED)} and, "
            f"optionally, {' or '.join(optional)}"
        )
    for key, value in values.items():
        if not isinstance(value, KEYS[key]):
            raise StudyError(f"{where}: {key} is {value!r}, expected a {KEYS[key].__name__}")
    confs = values["confs"]
    if not all(isinstance(conf, str) for conf in confs) or len(set(confs)) < max(2, len(confs)):
        raise StudyError(f"{where}: confs is {confs!r}, expected two or more names, each once")
    if values.get("figure", FIGURES[0]) not in FIGURES:
        raise StudyError(
            f"{where}: figure is {values['figure']!r}, expected {' or '.join(FIGURES)}"
        )
    if values.get("against", confs[0]) not in confs:
        raise StudyError(f"{where}: against is {values['against']!r}, expected one of its confs")
    variants = {conf for conf in confs if "+" in conf}
    return Study(name, requested=not {name, *variants}.isdisjoint(requested), **values)
