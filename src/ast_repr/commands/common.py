"""Options and functions that several commands share."""

import sys
from pathlib import Path

from .. import cli, escaping


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
