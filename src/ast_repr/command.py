"""What every entry point shares: options, and errors in one line with an exit code.

    def main(args): ...                   # args: what parse() found
    if __name__ == "__main__":
        command.run(main, parse())        # parse() returns a parser made by command.parser(__doc__)

Exit codes: 0 done, 1 run-time error, 2 usage error, 130 interrupted. Anything but the expected
kinds of error is a bug of ours and keeps its traceback.
"""

import argparse
import errno
import sys
import traceback

from . import config, escaping
from .config import ConfigError
from .rooms import is_outside, unknown

EXPECTED = (
    ValueError,
    OSError,
    RuntimeError,
)  # what user, files, network, disk and memory can cause

LONGEST = 4_000  # characters of a message


class UsageError(ValueError):
    """Options that make no sense; the message says what was found and what was expected."""


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake raises UsageError, which names the nearest option or choice.

    Options are never abbreviated.
    """

    def parse_args(self, args=None, namespace=None):
        options, rest = self.parse_known_intermixed_args(
            args, namespace
        )  # paths may stand before and after options
        if rest:
            self.error(unknown("option", rest[0].partition("=")[0], self._option_string_actions))
        return options

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, unknown("choice", value, action.choices))

    def error(self, message):
        raise UsageError(message)


def parser(doc):
    """A parser described by the script's docstring, with the option that all scripts have."""
    made = Parser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made


def add_conf_options(parser):
    """The options that say which configs are meant and what is laid over them."""
    parser.add_argument("--conf-dir", required=True, help="folder of the configs")
    parser.add_argument(
        "--conf", required=True, help="names of configs, separated by commas, or all"
    )
    parser.add_argument(
        "--protocol",
        default="clean",
        help="clean, or paper: conf/protocol_<name>.yaml is laid over each config",
    )
    parser.add_argument(
        "--corpus", help="conf/corpus_<name>.yaml, if there is one, is laid over each config"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="one setting; may be repeated",
    )


def confs(args, lacking=()):
    """{name: resolved config} of the confs and variants that `add_conf_options` found.

    Args:
        lacking: features that the corpus does not carry.
    """
    names = config.select(args.conf_dir, args.conf)
    return {
        name: config.load(args.conf_dir, name, args.corpus, args.protocol, args.set, lacking)
        for name in names
    }


def add_run_options(parser):
    """The options that say which runs are meant and where they run."""
    parser.add_argument(
        "--seeds", type=seeds, default=[0], help="whole numbers, separated by commas"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def add_allow_option(parser):
    """The option that lets a model file name classes outside of this project."""
    parser.add_argument(
        "--allow-class",
        action="append",
        default=[],
        metavar="MODULE.CLASS",
        type=outside_class,
        help="a class of your own that the model may be built from; may be repeated",
    )


def outside_class(text):
    """A name of the form "module.Class".

    >>> outside_class("mine.Gain")
    'mine.Gain'
    """
    if not is_outside(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected module.Class, such as mine.Gain")
    return text


def seeds(text):
    """Seeds from their list, each once.

    >>> seeds("0,2,2,1")
    [0, 2, 1]
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected whole numbers separated by commas, such as 0,1,2"
        )
    return list(dict.fromkeys(map(int, parts)))


def between(kind, least, most=float("inf")):
    """An option's type: a number of `kind` from `least` to `most`."""

    def parse(text):
        try:
            if least <= kind(text) <= most:
                return kind(text)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a number from {least:g}"
            + (f" to {most:g}" if most < float("inf") else " on")
        )

    return parse


def run(main, parser, argv=None):
    """Parse `argv` (default: the command line), call `main` and leave with the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        main(parser.parse_args(argv))
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted", 130))
    except EXPECTED as error:
        if "--debug" in argv:
            traceback.print_exc()
        sys.exit(
            _complain(
                f"error: {one_line(error)}",
                2 if isinstance(error, (UsageError, ConfigError)) else 1,
            )
        )


def one_line(error):
    """What an expected error says, in one line that a terminal shows as it is and nobody scrolls.

    The system's own errors get the file first and a remedy.
    """
    text = escaping.terminal(" ".join(_text(error).split()))
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return text


def _text(error):
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename is not None else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{where}disk full ({error.strerror}); free some space and run the same command "
            "again, what is done stays done"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{where}{error.strerror}; change the permissions, or work in a folder that you "
            "may write to"
        )
    return f"{where}{error.strerror}"


def _complain(message, code):
    sys.stdout.flush()  # so that the message comes last where both go to one file
    print(message, file=sys.stderr)
    return code
