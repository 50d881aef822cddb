"""README's table and picture are written from results, and nothing else of it changes."""

import pytest
from helpers import run_script
from report_runs import make_run

import report
from ast_repr.report import front_page

PAGE = f"# Title\n\n{front_page.BEGIN}old\n{front_page.END}\n\nmore\n"


def test_the_table_is_replaced_and_the_rest_stays(tmp_path):
    exp = tmp_path / "exp" / "synthetic"
    make_run(exp, "ast_linear", value=0.661)
    make_run(exp, "ast_unet", value=0.617, example=True)
    readme = tmp_path / "README.md"
    readme.write_text(PAGE)
    for _ in range(2):
        run_script(report, "--exp", exp, "--readme", readme)
        before, _, rest = readme.read_text().partition(front_page.BEGIN)
        table, _, after = rest.partition(front_page.END)
        assert (before, after) == ("# Title\n\n", "\n\nmore\n")
        assert "66.1" in table and "61.7" in table and "old" not in table
    assert (tmp_path / "egs" / "openmic" / "overview.png").stat().st_size > 1000


@pytest.mark.parametrize("page", ["", PAGE.replace(front_page.END, ""), PAGE[20:]])
def test_a_page_without_the_marks_is_refused(page, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(page)
    with pytest.raises(front_page.ReadmeError, match=r"README\.md"):
        front_page.insert_table(readme, "table")
    assert readme.read_text() == page
