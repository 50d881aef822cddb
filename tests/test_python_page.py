"""The examples of egs/python.md print the output that the page shows."""

import doctest
from pathlib import Path

import soundfile
from make_audio import music

PAGE = Path(__file__).parents[1] / "egs" / "python.md"


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "song.ogg", music(25, 16_000), 16_000)
    monkeypatch.chdir(tmp_path)
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.attempted > 10 and results.failed == 0
