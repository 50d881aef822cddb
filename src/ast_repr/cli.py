"""The frame of every entry point: common options, errors in one line, exit codes.

    if __name__ == "__main__":
        from ast_repr import cli

        cli.guard_imports()  # first of all: the imports below take seconds

    def main(args): ...

    if __name__ == "__main__":
        cli.run(main, parse())  # parse() returns a parser made by cli.parser(__doc__)

Exit codes: 0 done, 1 run-time error, 2 usage error, and 128 + N if signal N ended it, as in a
shell: 130 Ctrl-C, 143 terminated, 129 terminal closed, 141 broken pipe. Only expected kinds of
errors are shortened to a line; others are bugs and keep their traceback. This module imports
nothing heavy.
"""

import argparse
import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from tqdm import tqdm

from . import atomic, config, escaping, options, pretrained
from .choices import (
    MUSICNN_ADAPTERS,
    SOURCE_HEADS,
    TOKEN_HEADS,
    TRANSFORMERS,
    WITHOUT_SOURCE_CLASSES,
)
from .config import ConfigError
from .options import Parser, UsageError
from .options import between as between

# Errors caused by the user, files, network, disk or memory.
EXPECTED = (ValueError, OSError, RuntimeError, MemoryError)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)

LONGEST = 4_000  # characters of a message
LISTED = 10  # unusable clips


def parser(doc: str) -> Parser:
    """Make a parser from a script's docstring, with the option that all scripts have."""
    parser = Parser(doc)
    options.add_debug_option(parser)
    return parser


def add_conf_options(parser: Parser, for_runs: bool = False) -> None:
    """Add the choice of configs and of settings merged with them; runs need a backbone."""
    parser.add_argument("--conf-dir", required=True, help="folder of the configs")
    parser.add_argument(
        "--corpus", help="conf/corpus_<name>.yaml, if it exists, is merged before each config"
    )
    parser.add_argument(
        "--backbone",
        required=for_runs,
        help="name of the backbone in the catalogue and in tables; conf/backbone_<network>.yaml is "
        "merged over confs of AST if it is another network",
    )
    options.add_config_options(parser)


def confs(args: argparse.Namespace, lacking: Sequence[str] = ()) -> dict[str, config.Config]:
    """Resolve the configs chosen by the options of `add_conf_options`: {name: config}.

    If the backbone is no transformer or has no source classes, "all" leaves out those that need
    them, and prints their names.

    Args:
        lacking: features that the corpus does not carry.
    """
    network = pretrained.network(args.backbone)
    resolved = {}
    for name in config.select(args.conf_dir, args.conf):
        conf = config.load(
            args.conf_dir, name, args.corpus, args.protocol, args.set, lacking, network
        )
        resolved[name] = conf
    if args.conf != "all" or network in TRANSFORMERS:
        return resolved
    left_out = {"is no transformer": [], "has no source classes": []}
    for name, conf in resolved.items():
        if needs_transformer(conf, network):
            left_out["is no transformer"].append(name)
        elif network in WITHOUT_SOURCE_CLASSES and conf.head.name in SOURCE_HEADS:
            left_out["has no source classes"].append(name)
    for reason, names in left_out.items():
        if names:
            print(f"left out, since {args.backbone} {reason}: {', '.join(names)}")
        for name in names:
            del resolved[name]
    return resolved


def needs_transformer(conf: config.Config, network: str) -> bool:
    """Whether a config has an adapter, a head or a pooling that the other network lacks."""
    adapters = MUSICNN_ADAPTERS if network == "musicnn" else ()
    if conf.adapter is not None and conf.adapter.name not in adapters:
        return True
    return conf.head.name in TOKEN_HEADS or "pooling" in conf.backbone.options


def add_run_options(parser: Parser) -> None:
    """Add the choice of runs, their inputs and their device."""
    parser.add_argument(
        "--data", required=True, help="folder with the manifest and the feature store"
    )
    parser.add_argument("--exp", required=True, help="folder of the run folders")
    parser.add_argument("--weights", required=True, help="weight file of the backbone")
    options.add_run_options(parser)


def add_allow_option(parser: Parser) -> None:
    """Add the option that lets a model file name classes from outside this project."""
    parser.add_argument(
        "--allow-class",
        action="append",
        default=[],
        metavar="MODULE.CLASS",
        type=options.matching(r"[^\W\d]\w*(\.[^\W\d]\w*)+", "module.Class, such as mine.Gain"),
        help="a custom class that the model may be built from; may be repeated",
    )


def refuse_missing(reasons: Sequence[str], allowed: int) -> None:
    """Refuse more clips without usable audio than --allow-missing allows.

    Args:
        reasons: a line per unusable clip.

    Raises:
        ValueError: there are more; the first of them are printed.
    """
    if len(reasons) <= allowed:
        return
    for reason in reasons[:LISTED]:
        print(escaping.terminal(f"  {reason}"))
    more = f" (the first {LISTED} are listed above)" if len(reasons) > LISTED else ""
    raise ValueError(
        f"{len(reasons)} clips have no usable audio{more}; "
        f"fix them, or leave them out with --allow-missing {len(reasons)}"
    )


class _Terminated(KeyboardInterrupt):
    """A request to end other than Ctrl-C; `args` holds the signal's number."""


def guard_imports() -> None:
    """Let Ctrl-C end the process at once and in one line, until `run` takes over."""

    def leave(number, frame):
        os.write(2, b"interrupted\n")
        os._exit(128 + number)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored
        signal.signal(signal.SIGINT, leave)


def run(main: Callable, parser: Parser, argv: Sequence[str] | None = None) -> None:
    """Parse `argv` (default: the command line), call `main` with the options, and exit."""
    argv = sys.argv[1:] if argv is None else argv
    atomic.write_utf8_to_terminal()
    try:
        with _signals():
            code = _call(main, parser, argv)
    except KeyboardInterrupt as error:  # just before the call, or just after it
        code = _end(error)
    if code:
        sys.exit(code)


def _call(main, parser, argv):
    """Call `main` and return the exit code; errors are printed in one line."""
    try:
        main(parser.parse_args(argv))
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except (Exception, KeyboardInterrupt) as error:
        interrupt = _find_interrupt(error)
        if interrupt is not None:
            return _end(interrupt)
        if not isinstance(error, EXPECTED):
            raise
        if "--debug" in argv:
            traceback.print_exc()
        if isinstance(error, BrokenPipeError):  # such as `| head`
            _give_up_output()
            return 128 + signal.SIGPIPE
        is_usage = isinstance(error, (UsageError, ConfigError))
        return _complain(f"error: {one_line(error)}", 2 if is_usage else 1)


def _find_interrupt(error):
    """Find the interrupt behind an error: an extension's import turns it into an ImportError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def _end(interrupt):
    """Say how a signal has ended the command, and return the exit code."""
    if isinstance(interrupt, _Terminated):
        return _complain("terminated", 128 + interrupt.args[0])
    return _complain("interrupted", 128 + signal.SIGINT)


@contextlib.contextmanager
def _signals():
    """Raise KeyboardInterrupt for Ctrl-C and _Terminated for other requests to end.

    Ignored signals stay ignored.
    """

    def terminate(number, frame):
        raise _Terminated(number)

    handlers = dict.fromkeys((signal.SIGTERM, signal.SIGHUP), terminate)
    handlers[signal.SIGINT] = signal.default_int_handler
    previous = {}
    for number, handler in handlers.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def one_line(error: Exception) -> str:
    """Format an expected error as one line of limited length that is safe in a terminal.

    Errors of the operating system get the file first and a remedy.
    """
    text = escaping.terminal(" ".join(_text(error).split()))
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return text


def _text(error):
    text = str(error) or type(error).__name__
    if _out_of_memory(error):
        return f"out of memory ({text}); use smaller batches or fewer processes"
    if isinstance(error, RecursionError):
        return f"nested too deeply ({text}); expected plain settings and tables"
    if not isinstance(error, OSError) or error.strerror is None:
        return text
    text = error.strerror
    if error.errno in DISK_FULL:
        text = f"disk full ({text}); free some space and run the same command again, "
        text += "completed work is kept"
    elif error.errno in NOT_ALLOWED:
        text += "; change the permissions, or use a folder that you may write to"
    return text if error.filename is None else f"{error.filename}: {text}"


def _out_of_memory(error):
    """Recognise a failed allocation by Python or by PyTorch, on the CPU or a GPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def warn(line: str) -> None:
    """Print a warning to stderr, in one line."""
    with tqdm.external_write_mode(sys.stderr):  # above a progress bar, if there is one
        print("warning:", escaping.terminal(" ".join(line.split())), file=sys.stderr)


def _complain(message, code):
    """Print a message to stderr and return the exit code."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()  # so that the message comes last if both go to one file
        except OSError:
            _give_up_output()
    with contextlib.suppress(OSError):  # the terminal is closed
        print(message, file=sys.stderr)
    return code


def _give_up_output():
    """Discard buffered output; otherwise Python tries to write it again when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
