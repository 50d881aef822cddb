"""Run a command within the test's process."""

from ast_repr import cli


def call(capsys, command, *arguments):
    """Run a module of ast_repr.commands: (exit code, standard output, error output)."""
    code = 0
    try:
        cli.run(command.main, command.parse(), [str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()
