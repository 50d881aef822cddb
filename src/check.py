"""Check confs: each section against what it chooses from, without data and weights.

python src/check.py --conf-dir egs/openmic/conf --conf all
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

from ast_repr import cli, config, sections


def main(args):
    for lacking in ([], ["vggish"]):  # a corpus carries it or not
        for name, conf in cli.confs(args, lacking).items():
            try:
                sections.check(conf)
            except ValueError as error:
                raise config.ConfigError(f"conf {name}: {error}") from error


def parse():
    parser = cli.parser(__doc__)
    cli.add_conf_options(parser)
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
