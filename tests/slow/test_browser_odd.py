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
    rows = [pages.search(p, 0, arm, 1.0 * p + i) for p in range(2) for i, arm in enumerate(("single", "best"))]
    rows += [pages.search(2, 0, arm, 90.0 * i, status="cancelled") for i, arm in enumerate(("single", "best"))]
    pages.folder(base / "cancelled", searches=rows)
    other = "arms: [{name: single}, {name: best, rewards: {holdout: {name: other}}}]\nrewards: {holdout: {name: one}}\n"
    pages.folder(base / "unlike", other, searches=rows)
    for name in ("cancelled", "unlike"):
        browser.written(base / name)
    return base


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


ODD = [
    ("overview", {"x": "constructor"}, "What each arm gains"),
    ("overview", {"x": "usd", "price": "Infinity"}, "What each arm gains"),
    ("gallery", {"sort": "__proto__"}, "gain over single"),
    ("gallery", {"blind": "-5"}, "gain over single"),
    ("tree", {"tx": "constructor", "order": "__proto__"}, "trajectories"),
]


@pytest.mark.parametrize(("screen", "choices", "text"), ODD)
def test_an_address_may_ask_for_anything(runs, window, screen, choices, text):
    page = window.open(runs / "media", screen, **choices)
    page.get_by_text(text).first.wait_for()
    said = page.locator("main").inner_text()
    assert "This screen failed" not in said and "Infinity" not in said and "NaN" not in said


def figures(page):
    """By arm: n, the mean and the paired difference."""
    cells = [row.split("\t") for row in page.locator(".figures tbody tr").all_inner_texts()]
    return {c[0].strip(): (c[1], c[2], c[4]) for c in cells}


def test_means_of_what_is_shown_are_of_searches_that_finished(runs, window):
    page = window.open(runs / "cancelled", q="caption")
    page.get_by_text("6 of 6 searches").wait_for()
    assert figures(page) == {"single": ("2", "0.50", "baseline"), "best": ("2", "1.50", "+1.00")}


def test_nothing_shown_is_gained_in_another_reward(runs, window):
    page = window.open(runs / "unlike", q="caption")
    page.get_by_text("6 of 6 searches").wait_for()
    assert figures(page)["best"] == ("2", "1.50", "\u2013")
    gallery = window.open(runs / "unlike", "gallery")
    gallery.locator(".row").first.wait_for()
    assert gallery.locator(".numbers b").count() == 0
    assert window.open(runs / "cancelled", "gallery").locator(".numbers b").first.inner_text().startswith("+")


def test_money_needs_a_price_and_then_is_drawn_as_wide_as_before(runs, window):
    page = window.open(runs / "media")
    page.get_by_role("button", name="$").click()
    page.get_by_text("Give a price, in $ per replica-hour, to see money.").wait_for()
    assert "$0" not in page.locator("main").inner_text()
    page.get_by_label("$ per replica-hour").fill("2")
    drawing = page.get_by_role("img", name="by $")
    drawing.wait_for()
    page.set_viewport_size({"width": 1000, "height": 800})
    page.wait_for_function("() => document.querySelector('.card svg[aria-label$=\"by $\"]').clientWidth < 960")
    room = page.evaluate("""() => { const box = document.querySelector('.card svg[aria-label$="by $"]');
      return box.parentElement.clientWidth - box.clientWidth; }""")
    assert 0 <= room < 60  # the card is measured again although it was another element before


def test_a_blind_comparison_tells_nothing_by_its_order(runs, window):
    page = window.open(runs / "media", "gallery", sort="gain")
    page.locator(".row").first.wait_for()
    sorted_by_gain = [row.get_attribute("data-group") for row in page.locator(".row").all()]
    page.keyboard.press("b")
    page.get_by_text("press 1").first.wait_for()
    assert not page.get_by_role("group", name="sort").count()
    blind = [row.get_attribute("data-group") for row in page.locator(".row").all()]
    assert blind == sorted(blind) != sorted_by_gain


def test_a_button_that_was_clicked_leaves_the_keys_to_the_page(runs, window):
    page = window.open(runs / "media", "gallery")
    page.locator(".row").first.wait_for()
    page.get_by_role("group", name="sort").get_by_role("button", name="prompt").click()
    page.keyboard.press("Enter")
    page.get_by_text("trajectories").wait_for()
    page.wait_for_url("**#tree*")


def test_the_baseline_gains_nothing_over_itself(runs, window):
    page = window.open(runs / "cancelled")
    page.locator("a.line").first.wait_for()
    gains = {}
    for line in page.locator("a.line").all():
        cells = line.get_by_role("cell").all_inner_texts()
        gains.setdefault(cells[2].strip(), set()).add(cells[6])
    assert gains["single"] == {"\u2013"} and "+1.00" in gains["best"]


def test_tab_stays_in_the_dialog_of_keys(runs, window):
    page = window.open(runs / "media")
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()
    for key in ("Tab", "Tab", "Shift+Tab"):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.closest('[role=dialog]') !== null")
