"""The command `ast-repr`: those of the scripts that people use on their own files."""

import importlib
import sys

from .. import cli

# Each is a module of this package; these lines keep --help from importing all of them.
COMMANDS = {
    "predict": "predict the instruments of audio files, folders and patterns",
    "check": "check a CSV of your own data",
    "export": "export a trained run as a small file with its model card",
    "demo": "serve a page in the browser that shows the instruments of a song",
    "version": "print versions, and where the shipped model is",
}


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
        # Prints the help, or an error that names the nearest command.
        cli.run(_refuse, _parser(), [name])


def _parser():
    lines = [f"  {name:<9}{summary}" for name, summary in COMMANDS.items()]
    parser = cli.parser("\n".join(["Commands; each has --help:", *lines]))
    parser.prog = "ast-repr"
    parser.add_argument("command", choices=tuple(COMMANDS), metavar="COMMAND")
    return parser


def _refuse(args):
    raise cli.UsageError(f"{args.command}: no command")
