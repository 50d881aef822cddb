"""Serve a page that shows the instruments of a song: the same as `ast-repr demo`."""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

from ast_repr import cli
from ast_repr.commands.demo import main, parse

if __name__ == "__main__":
    cli.run(main, parse())
