"""What every entry point shares: options, and errors in one line with an exit code.

    if __name__ == "__main__":
        from ast_repr import cli
        cli.guard_imports()           # first of all: the imports below take seconds
    import ...
    def main(args): ...                   # args: the options
    if __name__ == "__main__":
        cli.run(main, parse())        # parse() returns a parser made by cli.parser(__doc__)

Exit codes: 0 done, 1 run-time error, 2 usage error, and 128 + N where signal N ended it, as in a
shell: 130 Ctrl-C, 143 terminated, 129 terminal closed, 141 nobody reads the output any more.
Anything but the expected kinds of error is a bug of ours and keeps its traceback. This module
imports nothing heavy.
"""

import argparse
import contextlib
import errno
import os
import signal
import sys
import traceback

from tqdm import tqdm

from . import atomic, config, escaping
from .config import ConfigError
from .registry import is_outside, unknown

# What user, files, network, disk and memory can cause.
EXPECTED = (ValueError, OSError, RuntimeError, MemoryError)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)

LONGEST = 4_000  # characters of a message


class UsageError(ValueError):
    """Options that make no sense; the message says what was found and what was expected."""


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake raises UsageError and names the nearest option or choice.

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
    """The confs and variants that `add_conf_options` found, as {name: resolved config}.

    Args:
        lacking: features that the corpus does not carry.
    """
    names = config.select(args.conf_dir, args.conf)
    return {
        name: config.load(args.conf_dir, name, args.corpus, args.protocol, args.set, lacking)
        for name in names
    }


def add_run_options(parser):
    """The options that say which runs are meant, what they are made from and where they run."""
    parser.add_argument(
        "--data", required=True, help="folder with the manifest and the feature store"
    )
    parser.add_argument("--exp", required=True, help="folder of the run folders")
    parser.add_argument(
        "--seeds", type=seeds, default=[0], help="whole numbers, separated by commas"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--backbone", required=True, help="name of the backbone, for tables and the catalogue"
    )
    parser.add_argument("--weights", required=True, help="its weight file")


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


class _Terminated(BaseException):
    """A signal asks this process to end; `args` holds its number."""


def guard_imports() -> None:
    """Let Ctrl-C end the process at once and in one line, until `run` takes over."""

    def leave(number, frame):
        os.write(2, b"interrupted\n")
        os._exit(128 + number)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored
        signal.signal(signal.SIGINT, leave)


def run(main, parser, argv=None):
    """Parse `argv` (default: the command line), call `main` with it, leave with the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    atomic.write_utf8_to_terminal()
    try:
        with _signals():
            code = _call(main, parser, argv)
    except (KeyboardInterrupt, _Terminated) as error:  # just before the call, or just after it
        number = error.args[0] if isinstance(error, _Terminated) else signal.SIGINT
        code = _complain("terminated", 128 + number)
    if code:
        sys.exit(code)


def _call(main, parser, argv):
    """The exit code of `main`; errors are told in one line."""
    try:
        main(parser.parse_args(argv))
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _complain("interrupted", 128 + signal.SIGINT)
    except _Terminated as error:
        return _complain("terminated", 128 + error.args[0])
    except EXPECTED as error:
        if "--debug" in argv:
            traceback.print_exc()
        if isinstance(error, BrokenPipeError):  # `head` has seen enough
            _give_up_output()
            return 128 + signal.SIGPIPE
        usage = isinstance(error, (UsageError, ConfigError))
        return _complain(f"error: {one_line(error)}", 2 if usage else 1)
    return 0


@contextlib.contextmanager
def _signals():
    """Raise KeyboardInterrupt for Ctrl-C and _Terminated for other requests to end.

    Signals that are ignored stay so.
    """

    def terminate(number, frame):
        raise _Terminated(number)

    wanted = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: terminate,
        signal.SIGHUP: terminate,
    }
    before = {}
    for number, handler in wanted.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def one_line(error):
    """An expected error's text, in one line that a terminal shows as it is and nobody scrolls.

    The system's own errors get the file first and a remedy.
    """
    text = escaping.terminal(" ".join(_text(error).split()))
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return text


def _text(error):
    text = str(error) or type(error).__name__
    if _out_of_memory(error):
        return f"out of memory ({text}); take smaller batches or fewer processes"
    if isinstance(error, RecursionError):
        return f"nested too deeply ({text}); expected plain settings and tables"
    if not isinstance(error, OSError) or error.strerror is None:
        return text
    where = f"{error.filename}: " if error.filename is not None else ""
    if error.errno in DISK_FULL:
        return (
            f"{where}disk full ({error.strerror}); "
            "free some space and run the same command again, what is done stays done"
        )
    if error.errno in NOT_ALLOWED:
        return (
            f"{where}{error.strerror}; "
            "change the permissions, or work in a folder that you may write to"
        )
    return f"{where}{error.strerror}"


def _out_of_memory(error):
    """Whether Python, or PyTorch on the CPU or a GPU, got no memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def warn(line):
    """Show a line about something that is wrong, but does not end the command."""
    with tqdm.external_write_mode(sys.stderr):  # beside a progress bar, if there is one
        print("warning:", escaping.terminal(" ".join(line.split())), file=sys.stderr)


def _complain(message, code):
    if sys.stdout is not None:
        try:
            sys.stdout.flush()  # so that the message comes last where both go to one file
        except OSError:
            _give_up_output()
    with contextlib.suppress(OSError):  # the terminal has gone
        print(message, file=sys.stderr)
    return code


def _give_up_output():
    """Drop what is still to be written to the standard output, or Python tries again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
