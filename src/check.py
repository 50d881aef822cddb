"""Check confs: each section against what it chooses from, without data and weights.

python src/check.py --conf-dir egs/openmic/conf --conf all
"""

if __name__ == "__main__":
    from ast_repr import command

    command.guard_imports()

from ast_repr import command, config, sections


def main(args):
    for lacking in ([], ["vggish"]):  # a corpus carries it or not
        for name, conf in command.confs(args, lacking).items():
            try:
                sections.check(conf)
            except ValueError as error:
                raise config.ConfigError(f"conf {name}: {error}") from error


def parse():
    parser = command.parser(__doc__)
    command.add_conf_options(parser)
    return parser


if __name__ == "__main__":
    command.run(main, parse())
