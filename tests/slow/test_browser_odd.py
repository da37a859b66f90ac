"""The report page in a real browser where something is odd: a run that grows under a vote, and what links ask for."""

import csv
import subprocess
import sys
from pathlib import Path

import browser
import pages
import pytest
from browser import Window

pytestmark = pytest.mark.skipif(bool(browser.lacking()), reason=f"to show a page lacks: {browser.lacking()}")
ROOT = Path(__file__).parents[2]
FORMULA = '=HYPERLINK("http://x.example","see")'


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs with their pages. They are made before a browser's loop runs in this thread."""
    base = tmp_path_factory.mktemp("odd")
    browser.with_media(base / "media")
    return base


@pytest.fixture(scope="module")
def chromium(runs):
    with browser.chromium() as there:
        yield there


@pytest.fixture
def window(chromium):
    w = Window(chromium, accept_downloads=True)
    yield w
    assert not w.errors
    w.context.close()


def votes(page):
    """The votes as a spreadsheet reads them."""
    with page.expect_download() as got:
        page.keyboard.press("d")
    return list(csv.DictReader(Path(got.value.path()).read_text().splitlines()))


def test_votes_stay_with_their_prompts_while_the_run_grows(chromium, tmp_path):
    rows = [pages.search(p, 0, arm, 1.0) for p in range(4) for arm in ("single", "best")]
    for r in rows:
        r["prompt"] = FORMULA if r["search_id"].startswith("000001") else r["prompt"]
    run = pages.folder(tmp_path / "run", searches=rows[2:6])
    command = [sys.executable, "-m", "raysearch", "view", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            assert server.stdout is not None
            url = next(word for line in server.stdout for word in line.split() if word.startswith("http"))
            window = Window(chromium, accept_downloads=True)
            page = window.open(url, "gallery", sort="prompt", blind="7")
            page.locator(".row").nth(1).wait_for()
            page.keyboard.press("1")
            pages.folder(tmp_path / "later", searches=rows)
            (tmp_path / "later" / "searches.parquet").replace(run / "searches.parquet")
            page.locator(".row").nth(3).wait_for(timeout=120_000)
            assert ["voted" in row.inner_text() for row in page.locator(".row").all()] == [False, True, False, False]
            page.keyboard.press("2")  # of the row that was selected before, too
            first, second = votes(page)
            assert (first["prompt"], second["prompt"]) == (f"'{FORMULA}", "caption 2")
            shown = [v["shown"].split("|") for v in (first, second)]
            assert first["winner_search"] == f"000001-s0-{shown[0][0]}" and first["winner"] == shown[0][0]
            assert second["winner_search"] == f"000002-s0-{shown[1][1]}"
            assert not window.errors
            window.context.close()
        finally:
            server.terminate()
