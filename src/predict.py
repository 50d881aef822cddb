"""Predict the instruments of audio files: the same as `ast-repr predict`."""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

from ast_repr import cli
from ast_repr.commands.predict import main, parse

if __name__ == "__main__":
    cli.run(main, parse())
