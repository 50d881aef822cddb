"""The command `ast-repr`: those of the scripts that people use on their own files."""

import importlib
import sys

from .. import cli

# One module of this package each; the help shows the first line of its docstring.
COMMANDS = ("predict", "check", "export", "demo", "version")


def main() -> None:
    """Run `ast-repr COMMAND ...`."""
    cli.guard_imports()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        command = importlib.import_module(f"{__name__}.{name}")
        parser = command.parse()
        parser.prog = f"ast-repr {name}"
        cli.run(command.main, parser, arguments)
    else:
        # Prints the help, or names the nearest command.
        cli.run(_no_command, _parser(), sys.argv[1:] or ["--help"])


def _parser():
    lines = []
    for name in COMMANDS:
        summary = importlib.import_module(f"{__name__}.{name}").__doc__.splitlines()[0]
        lines.append(f"  {name:<9}{summary}")
    parser = cli.parser("\n".join(["Commands; each has --help:", *lines]))
    parser.prog = "ast-repr"
    parser.add_argument("command", choices=COMMANDS)
    return parser


def _no_command(args):
    raise cli.UsageError(f"{args.command}: expected after ast-repr, before its options")
