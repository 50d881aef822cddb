"""src/pretrain.py with a small network and held-out set: the same code, options and files."""

import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import pretrain
from ast_repr import cli


def main() -> None:
    """Run it with the command line's options."""
    pretrain.HELD_OUT = 175
    pretrain.DIMS |= {"embed_dim": 48, "depth": 1}
    if inspect.signature(pretrain.main).parameters:
        cli.run(pretrain.main, pretrain.parse())
    else:
        pretrain.main()


if __name__ == "__main__":
    main()
