"""src/pretrain.py with a small network and small shards: the same code, options and files."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import pretrain
from ast_repr import cli


def main() -> None:
    """Run it with the command line's options."""
    pretrain.SHARD_CLIPS = 8
    pretrain.VALID_SHARDS = 1
    pretrain.DIMS |= {"embed_dim": 48, "depth": 2, "pooled_blocks": [1]}
    cli.run(pretrain.main, pretrain.parse())


if __name__ == "__main__":
    main()
