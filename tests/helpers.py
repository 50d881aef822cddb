"""Shared by tests: the scripts of src/ called in this process."""

from types import ModuleType

from ast_repr import cli


def run_script(script: ModuleType, *argv: object) -> int:
    """Call a script as its command line does, and return the exit code."""
    try:
        cli.run(script.main, script.parse(), [str(argument) for argument in argv])
    except SystemExit as left:
        return left.code
    return 0


def call(capsys, script: ModuleType, *argv: object) -> tuple[int, str, str]:
    """Call a script, or a module of ast_repr.commands: (exit code, stdout, stderr)."""
    code = run_script(script, *argv)
    return code, *capsys.readouterr()
