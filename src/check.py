"""Check confs by building the model of each, without data and weights.

python src/check.py --conf-dir egs/openmic/conf --conf all
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import argparse

from ast_repr import cli, config, sections


def main(args: argparse.Namespace) -> None:
    for lacking in ([], ["vggish"]):  # corpora with VGGish features, and without
        for name, conf in cli.confs(args, lacking).items():
            try:
                sections.check(conf)
            except ValueError as error:
                raise config.ConfigError(f"conf {name}: {error}") from error


def parse() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    cli.add_conf_options(parser)
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
