"""A run folder keeps the command that started the run."""

import sys

from ast_repr.run_folder import RunFolder


def test_the_first_command_of_a_run_is_kept(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    monkeypatch.setenv("AST_REPR_COMMAND", "source run.sh --seeds 0,1")
    run.write_command()
    monkeypatch.setenv("AST_REPR_COMMAND", "source run.sh --from score")
    run.write_command()
    assert run.read_command() == "source run.sh --seeds 0,1"


def test_without_a_recipe_it_is_the_command_line_of_the_script(tmp_path, monkeypatch):
    monkeypatch.delenv("AST_REPR_COMMAND", raising=False)
    monkeypatch.setattr(sys, "argv", ["src/train.py", "--exp", "my exp"])
    assert RunFolder(tmp_path).read_command() == "python src/train.py --exp 'my exp'"
