"""README's table and picture are written from results, and nothing else of it changes."""

import pytest
from helpers import run_script
from report_runs import arrays, make_run, scored, with_truth

import report
from ast_repr.report import compare, contrasts, front_page, results

BEGIN, END = (mark.format(name="table") for mark in front_page.MARKS)
PAGE = f"# Title\n\n{BEGIN}old\n{END}\n\nmore\n"


def test_the_table_is_replaced_and_the_rest_stays(tmp_path):
    exp = tmp_path / "exp" / "synthetic"
    make_run(exp, "ast_linear", value=0.661)
    make_run(exp, "ast_unet", value=0.617, example=True)
    readme = tmp_path / "README.md"
    readme.write_text(PAGE)
    for _ in range(2):
        run_script(report, "--exp", exp, "--readme", readme)
        before, _, rest = readme.read_text().partition(BEGIN)
        table, _, after = rest.partition(END)
        assert (before, after) == ("# Title\n\n", "\n\nmore\n")
        assert "66.1" in table and "61.7" in table and "old" not in table
    assert (tmp_path / "egs" / "openmic" / "overview.png").stat().st_size > 1000


@pytest.mark.parametrize("page", ["", PAGE.replace(END, ""), PAGE[20:]])
def test_a_page_without_the_marks_is_refused(page, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(page)
    with pytest.raises(front_page.ReadmeError, match=r"README\.md"):
        front_page.insert_table(readme, "table", "new")
    assert readme.read_text() == page


def test_contrasts_are_shown_for_each_table_that_has_one(tmp_path):
    contrast = contrasts.Contrast(question="U-Net?", a="ast_linear", b="ast_unet")
    absent = contrasts.Contrast(question="noise?", a="ast_linear", b="ast_noise")
    tables = []
    for corpus in ("synthetic", "songs"):
        for conf, noise in (("ast_linear", 0.6), ("ast_unet", 0.3)):
            for seed in (0, 1):
                scored(tmp_path / corpus, conf, seed, with_truth(arrays(seed, noise=noise)))
        tables += results.read(tmp_path / corpus)[0]
    scored(tmp_path / "alone", "ast_linear", 0, with_truth(arrays(0)))  # none of them
    scored(tmp_path / "unknown", "ast_linear", 0, arrays(0))  # no truth
    scored(tmp_path / "unknown", "ast_unet", 0, arrays(0))
    others = [results.read(tmp_path / name)[0][0] for name in ("alone", "unknown")]

    first, second = contrasts.lines(tables + others, {"unet": contrast, "noise": absent})
    assert list(first) == ["question", "synthetic, tiny", "songs, tiny"]
    overall = compare.compare(*tables[0].methods, "truth")["macro_f1"]
    difference, low, high = (100 * overall[key] for key in ("difference", "low", "high"))
    assert first["songs, tiny"] == f"{difference:+.1f} [{low:+.1f}, {high:+.1f}] (2)"
    assert second == {"question": "noise?", "synthetic, tiny": "", "songs, tiny": ""}


def test_the_findings_are_written_with_the_table(tmp_path):
    for corpus in ("synthetic", "songs"):
        scored(tmp_path / "exp" / corpus, "ast_linear", 0, with_truth(arrays(0)))
        scored(tmp_path / "exp" / corpus, "ast_unet", 0, with_truth(arrays(1)))
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "contrasts.yaml").write_text(
        'unet: {question: "Does it help?", a: ast_linear, b: ast_unet}'
    )
    begin, end = (mark.format(name="findings") for mark in front_page.MARKS)
    readme = tmp_path / "README.md"
    readme.write_text(f"{PAGE}{begin}{end}\nlast\n")
    exp = tmp_path / "exp" / "synthetic"
    options = ("--all-corpora", "--conf-dir", tmp_path / "conf", "--readme", readme)
    run_script(report, "--exp", exp, *options)
    _, _, rest = readme.read_text().partition(begin)
    assert "| Does it help? |" in rest and "songs, tiny" in rest
    assert rest.endswith(f"{end}\nlast\n")
