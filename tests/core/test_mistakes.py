"""A user's mistake that can be seen without torch is one line and exit code 2, and nothing is left behind."""

import mistakes
import pytest


@pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in mistakes.rows(heavy=False)])
def test_one_line_says_what_is_wrong(tmp_path, row):
    assert row.fails(tmp_path) == ""
