"""Options and functions that several commands share."""

import sys
from collections.abc import Callable
from pathlib import Path

from .. import cli, escaping, pretrained, run_folder
from ..inference import Predictor


def add_model_options(parser: cli.Parser) -> None:
    """Add the options that let a model be built from its file."""
    parser.add_argument(
        "--backbone-file",
        type=Path,
        metavar="FILE",
        help="the backbone's weights, if they are not where the model looks for them",
    )
    cli.add_allow_option(parser)


def add_device_option(parser: cli.Parser) -> None:
    """Add the choice of a device."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def say(line: str) -> None:
    """Print a line about the command's work to the standard error."""
    print(escaping.terminal(line), file=sys.stderr)


def find_checkout() -> Path | None:
    """Find the repository that holds this package, or else the one around the working folder."""
    here = Path.cwd()
    for folder in (Path(__file__).resolve().parents[3], here, *here.parents):
        if (folder / "egs" / "recipe.sh").is_file():
            return folder
    return None


def load_default(load: Callable[[Path], Predictor]) -> Predictor:
    """Load the best finished run of the checkout, or else the shipped model, and say which."""
    checkout = find_checkout()
    reason = "this is not a checkout of the repository"
    if checkout is not None:
        runs = run_folder.finished(checkout.glob("egs/*/exp"))
        best, model = run_folder.load_best(runs, load, say)
        if best is not None:
            say(f"model: {best.folder}, {best.describe()}")
            return model
        reason = f"no finished run under {checkout}/egs/*/exp"
    path = pretrained.shipped_model()
    say(f"model: {path.name}, which is shipped ({reason}); --model chooses another")
    return load(path)
