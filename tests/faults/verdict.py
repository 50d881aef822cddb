"""What came of a trial, and the figures of a campaign."""

import sys
from collections import Counter
from dataclasses import asdict, dataclass, field

SURVIVED = "survived"  # refused in one line, or the right result
FAILED = "failed"  # an error where the same command should have finished, or one that helps nobody
SILENT = "silent"  # another result than the right one, and not a word
TRACEBACK = "traceback"  # a Python traceback, or a crash of the interpreter
HANG = "hang"
OUTCOMES = (SURVIVED, FAILED, SILENT, TRACEBACK, HANG)
SHOWN = 5  # trials of a group that went wrong


@dataclass(frozen=True)
class Trial:
    """One trial of a campaign.

    Attributes:
        group: what was tried, such as a stage or a kind of file.
        outcome: one of OUTCOMES.
        how: the circumstances, enough to look at the trial again.
        note: what was seen; for an outcome other than "survived" the reason.
        leftovers: files and processes that stayed, by name.
        counted: False where the format cannot know better, as a WAV whose samples have changed.
    """

    group: str
    outcome: str
    how: str = ""
    note: str = ""
    leftovers: tuple[str, ...] = ()
    counted: bool = True

    @property
    def good(self) -> bool:
        """Whether this is how it should be."""
        return not self.counted or (self.outcome == SURVIVED and not self.leftovers)


@dataclass
class Tally:
    """The trials of one campaign."""

    campaign: str
    trials: list[Trial] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        """Keep a trial; the first ones of a group that go wrong are shown at once, on stderr."""
        self.trials.append(trial)
        wrong = sum(not other.good for other in self.trials if other.group == trial.group)
        if not trial.good and wrong <= SHOWN:
            print(f"  {self.campaign}: {_describe(trial)}", file=sys.stderr, flush=True)

    def show(self, group: str) -> None:
        """Print the figures of a finished group on stderr, before the campaign's own table."""
        if group in self.groups():
            print(f"  {group}: {_counts(self.figures(group))}", file=sys.stderr, flush=True)

    def figures(self, group: str | None = None) -> dict[str, int]:
        """Counts of all trials, or of one group's; what is not counted is under "by nature"."""
        trials = [trial for trial in self.trials if group in (None, trial.group)]
        counted = [trial for trial in trials if trial.counted]
        outcomes = Counter(trial.outcome for trial in counted)
        figures = {"tried": len(trials)} | {name: outcomes[name] for name in OUTCOMES}
        figures["leftovers"] = sum(len(trial.leftovers) for trial in counted)
        figures["by nature"] = len(trials) - len(counted)
        return figures

    def groups(self) -> list[str]:
        """The groups in the order in which they were first tried."""
        return list(dict.fromkeys(trial.group for trial in self.trials))

    def reasons(self, group: str) -> dict[str, int]:
        """What trials survived by: the first word of their notes, counted."""
        survived = [trial for trial in self.trials if trial.group == group and trial.good]
        return Counter(trial.note.partition(":")[0][:40] for trial in survived)

    def lines(self) -> list[str]:
        """A line for each group, and the campaign's own at the end."""
        width = max(map(len, [*self.groups(), self.campaign]), default=0)
        lines = [f"  {group:{width}}  {_counts(self.figures(group))}" for group in self.groups()]
        return [*lines, f"{self.campaign:{width + 2}}  {_counts(self.figures())}"]

    def as_json(self) -> dict:
        """All figures, and each trial that went wrong."""
        return {
            "campaign": self.campaign,
            "all": self.figures(),
            "groups": {group: self.figures(group) for group in self.groups()},
            "reasons": {group: self.reasons(group) for group in self.groups()},
            "wrong": [asdict(trial) for trial in self.trials if not trial.good],
        }


def _counts(figures: dict[str, int]) -> str:
    shown = [f"{name} {count}" for name, count in figures.items() if name != "by nature"]
    if figures["by nature"]:
        shown.append(f"(by nature not counted: {figures['by nature']})")
    return "  ".join(shown)


def _describe(trial: Trial) -> str:
    left = f"; left: {', '.join(trial.leftovers[:4])}" if trial.leftovers else ""
    return f"{trial.group}: {trial.outcome} ({trial.how}) {trial.note}{left}".rstrip()
