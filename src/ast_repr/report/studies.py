"""Studies: confs and variants that answer one question, from conf/studies.yaml.

normalisation:
  question: Is it reprogramming or re-normalisation?
  confs: [ast_linear, ast_linear+input.norm=none]    # in this order
  figure: bars        # optional, see Study.figure
  against: ast_linear    # the others are compared with this one; default: the report's reference

A study is shown if all of its confs were run, or if it was asked for, by its name or by that of a
variant in it.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..typecheck import RecordError
from . import conf_file
from .results import Table


@dataclass(frozen=True)
class Study:
    """A question and the confs that answer it, in order; see the head of this file.

    Attributes:
        figure: bars per method; macro-F1 against the fraction of training labels, against the
            number of training clips, or against the cost of training, which the table then has
            too; or the effect of partial_labels, which has tables too.
    """

    question: str
    confs: list[str]
    figure: Literal["bars", "labels", "clips", "cost", "partial_labels", "none"] = "none"
    against: str | None = None
    name: str = ""
    requested: bool = False

    def table(self, table: Table) -> Table | None:
        """The study's methods in `table`, in the study's order; None if it is not to be shown.

        A study is not shown if fewer than two methods are there, or some are missing and it was
        not asked for.
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
        YamlError, RecordError: as `conf_file.read`; or a study compares too few confs, one twice,
            or with none of its own.
    """
    studies = []
    for name, study in conf_file.read(path, Study).items():
        if len(study.confs) < 2 or len(set(study.confs)) < len(study.confs):
            raise RecordError(f"{path}: {name}.confs: expected two or more, each once")
        if study.against not in (None, *study.confs):
            raise RecordError(f"{path}: {name}.against: expected one of its confs")
        names = {name, *(conf for conf in study.confs if "+" in conf)}
        studies.append(replace(study, name=name, requested=not names.isdisjoint(requested)))
    return studies
