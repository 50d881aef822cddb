"""Export a trained run: the same as `ast-repr export`."""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

from ast_repr import cli
from ast_repr.commands.export import main, parse

if __name__ == "__main__":
    cli.run(main, parse())
