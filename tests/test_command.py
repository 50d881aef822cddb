"""Entry points end in one line and with the right exit code, however they end."""

import os
import signal
import sys
from pathlib import Path

import helpers
import pytest

from ast_repr import cli

SOURCE = Path(cli.__file__).parents[1]


@pytest.fixture
def start(tmp_path):
    """Code of a script, keywords of Popen -> its process, once that has made the file `ready`."""

    def begin(code, wait=True, **options):
        script = tmp_path / "script.py"
        script.write_text(code)
        process = helpers.start(
            [sys.executable, script],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(SOURCE)},
            **options,
        )
        if wait:
            helpers.wait_until((tmp_path / "ready").exists, process)
        return process

    return begin


WAITING = """
import time
from pathlib import Path
from ast_repr import cli

def main(args):
    try:
        Path("ready").touch()
        time.sleep(60)
    finally:
        Path("tidied").touch()

cli.run(main, cli.parser("doc"))
"""


@pytest.mark.parametrize(
    "number, code, message",
    [
        (signal.SIGINT, 130, "interrupted\n"),
        (signal.SIGTERM, 143, "terminated\n"),
        (signal.SIGHUP, 129, "terminated\n"),
    ],
)
def test_a_script_that_is_ended_tidies_up(start, tmp_path, number, code, message):
    process = start(WAITING)
    process.send_signal(number)
    assert process.communicate(timeout=120) == ("", message) and process.returncode == code
    assert (tmp_path / "tidied").exists()


def test_a_signal_that_was_ignored_stays_ignored(start):
    """As of `nohup`, and of Ctrl-C in a script's background."""
    process = start(
        WAITING.replace("60", "0.5"),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=120) == ("", "") and process.returncode == 0


def test_ctrl_c_during_the_imports_is_one_line(start, tmp_path):
    (tmp_path / "heavy.py").write_text(
        "import time\nfrom pathlib import Path\nPath('ready').touch()\ntime.sleep(60)\n"
    )
    process = start(
        "if __name__ == '__main__':\n"
        "    from ast_repr import cli\n"
        "    cli.guard_imports()\n"
        "import heavy\n"
    )
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=120) == ("", "interrupted\n")
    assert process.returncode == 130


PRINTING = """
from ast_repr import cli

def main(args):
    for number in range(100_000):
        print(number)

cli.run(main, cli.parser("doc"))
"""


def test_the_reader_may_leave(start):
    """As `| head` does."""
    process = start(PRINTING, wait=False)
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(timeout=60) == 128 + signal.SIGPIPE


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_an_output_without_room_is_one_line(start):
    with open("/dev/full", "w") as full:
        process = start(PRINTING, wait=False, stdout=full)
        _, message = process.communicate(timeout=120)
    assert process.returncode == 1 and message.count("\n") == 1 and "disk full" in message


def test_an_output_that_is_closed_is_no_error(start):
    process = start(PRINTING, wait=False, stdout=None, preexec_fn=lambda: os.close(1))
    assert process.communicate(timeout=120)[1] == "" and process.returncode == 0


def endless(depth):
    return endless(depth + 1)


@pytest.mark.parametrize(
    "fail, word",
    [
        (lambda: bytearray(2**62), "memory"),
        (lambda: endless(0), "nested"),
    ],
)
def test_want_of_memory_and_endless_nesting_are_one_line(fail, word, capsys):
    with pytest.raises(SystemExit) as left:
        cli.run(lambda args: fail(), cli.parser("doc"), [])
    message = capsys.readouterr().err
    assert left.value.code == 1 and message.count("\n") == 1 and word in message


def test_ctrl_c_in_the_import_of_an_extension_is_one_line(start):
    process = start(
        WAITING.replace(
            "    try:\n",
            "    import signal\n    try:\n        try:\n            signal.raise_signal(2)\n"
            "        except KeyboardInterrupt as error:\n"
            "            raise ImportError('initialization failed') from error\n",
        ),
        wait=False,
    )
    assert process.communicate(timeout=120) == ("", "interrupted\n")
    assert process.returncode == 130
