"""The report page in a real browser: what it shows of all kinds of runs, its keys, its videos, and that it is alone."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import browser
import numpy as np
import pages
import pyarrow.parquet as pq
import pytest
from browser import HOSTILE, Window

LACKING = browser.lacking()
needs_browser = pytest.mark.skipif(bool(LACKING), reason=f"to show a page lacks: {LACKING}")
APP = Path(__file__).parents[2] / "raysearch" / "page" / "app"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of all cases with their pages. They are made before a browser's loop runs in this thread."""
    base = tmp_path_factory.mktemp("runs")
    browser.all_cases(base)
    return base


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


# -- all kinds of runs -----------------------------------------------------------------------------------------------


SHOWN = {
    "empty": {
        "overview": "No search has ended yet",
        "gallery": "No search has ended yet",
        "tree": "No search has ended",
    },
    "one": {
        "overview": "caption 0",
        "tree": "12 of 12",
        "costs": "recorded no timeline",
        "failures": "No search failed",
    },
    "running": {"overview": "What each arm gains", "costs": "denoisers", "tree": "winner"},
    "failed": {"failures": "out of memory", "tree": "failed before a candidate", "overview": "failed"},
    "long": {"tree": "chunks", "overview": "caption 0"},
    "queue": {"tree": "chunks", "gallery": "seed 0"},
    "sweep": {"overview": "log(", "gallery": "baseline", "costs": "By arm"},
}


@needs_browser
@pytest.mark.parametrize("case", browser.CASES)
def test_every_screen_of_a_run(case, runs, window, tmp_path):
    for screen in ("overview", "gallery", "tree", "costs", "failures"):
        page = window.open(runs / case, screen)
        if screen in SHOWN[case]:
            page.get_by_text(SHOWN[case][screen]).first.wait_for()
        assert "failed:" not in page.locator("main").inner_text().partition("\n")[0]
        page.screenshot(path=tmp_path / f"{screen}.png")
        assert (tmp_path / f"{screen}.png").stat().st_size > 10_000


@needs_browser
def test_a_page_without_data_says_how_to_write_one(window, tmp_path):
    shutil.copy(APP.parent / "app.html", tmp_path / "report.html")
    window.page.goto((tmp_path / "report.html").as_uri())
    window.page.get_by_text("raysearch report RUN_DIR").wait_for()


@needs_browser
def test_a_hostile_caption_is_a_text(runs, window):
    for screen in ("overview", "gallery", "tree", "failures"):
        page = window.open(runs / "media", screen, q="onerror")
        if screen != "failures":
            page.get_by_text(HOSTILE).first.wait_for()
        assert page.title() == "media \u2013 raysearch"
        assert page.locator("img[onerror], img[src='x']").count() == 0


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(scheme, runs, chromium):
    w = Window(chromium, color_scheme=scheme)
    page = w.open(runs / "media")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    mean = np.mean([int(x) for x in background[4:-1].split(",")])
    assert mean > 200 if scheme == "light" else mean < 60
    w.context.close()


# -- overview --------------------------------------------------------------------------------------------------------


@needs_browser
def test_filters_live_in_the_address_and_means_are_of_what_is_shown(runs, window):
    page = window.open(runs / "media")
    page.keyboard.press("/")
    page.keyboard.type("circle")
    page.get_by_text("6 of 24 searches").wait_for()
    page.wait_for_url("**q=circle*")  # the address follows what is shown
    page.get_by_label("seed", exact=True).select_option("1")
    page.get_by_text("3 of 24 searches").wait_for()
    rows = pq.read_table(runs / "media" / "searches.parquet").to_pylist()
    found = {r["arm"]: r["reward_holdout"] for r in rows if "circle" in r["prompt"] and r["seed"] == 1}

    def shown():
        cells = [row.split("\t") for row in texts(page, ".figures tbody tr")]
        assert all("[" in c[3] for c in cells)  # intervals are those of the whole run
        return {c[0].strip(): (float(c[2].replace("\u2212", "-")), c[4]) for c in cells}

    first = shown()
    assert {k: v[0] for k, v in first.items()} == {k: pytest.approx(v, abs=0.0051) for k, v in found.items()}
    assert float(first["rgrp"][1].replace("\u2212", "-")) == pytest.approx(found["rgrp"] - found["single"], abs=0.0051)
    assert page.get_by_text("intervals are for the whole run").count() == 1
    page.reload()
    page.get_by_text("3 of 24 searches").wait_for()
    assert shown() == first
    assert page.locator("#prompt-filter").input_value() == "circle"
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("of 24 searches").wait_for(state="detached")


@needs_browser
def test_curves_are_saved_as_a_drawing_of_their_own(runs, window):
    page = window.open(runs / "sweep")
    with page.expect_download() as got:
        page.get_by_role("button", name="Save SVG").click()
    drawing = Path(got.value.path()).read_text()
    assert drawing.startswith("<svg") and "http://www.w3.org/2000/svg" in drawing and "var(" not in drawing
    assert got.value.suggested_filename == "sweep-reward_holdout-nfe.svg"


@needs_browser
def test_a_price_turns_seconds_into_dollars(runs, window):
    page = window.open(runs / "media", "overview", x="usd", price="1800")
    costs = [row.split("\t")[7] for row in texts(page, ".figures tbody tr")]
    assert costs == ["$1.00"] * 3  # two seconds each


@needs_browser
@pytest.mark.parametrize(("case", "wasted"), [("running", ["10.7k"]), ("one", [])])
def test_what_work_ahead_wasted_is_told_where_there_was_any(case, wasted, runs, window):
    found = texts(window.open(runs / case, "costs"), ".totals div")
    assert [t.split()[-1] for t in found if t.lower().startswith("nfe wasted")] == wasted


# -- keyboard --------------------------------------------------------------------------------------------------------


@needs_browser
def test_the_keyboard_reaches_every_screen_and_search(runs, window):
    page = window.open(runs / "media")
    for key, screen in (("2", "gallery"), ("3", "tree"), ("4", "costs"), ("5", "failures"), ("1", "overview")):
        page.keyboard.press(key)
        page.locator(f"main.{screen}").wait_for()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog")
    assert "Play or pause" not in dialog.inner_text() and "The tree of the selected search" in dialog.inner_text()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    chosen = page.locator("a.line.selected")
    assert chosen.count() == 1
    page.keyboard.press("Enter")
    page.locator("main.tree").wait_for()
    page.wait_for_url("**search=000000-s*")
    page.go_back()
    page.locator("main.overview").wait_for()
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


# -- gallery ---------------------------------------------------------------------------------------------------------


APART = """() => new Promise((done) => {
  const videos = [...document.querySelectorAll(".row video")], found = [];
  const look = () => {
    const times = videos.map((v) => v.currentTime);
    found.push([Math.max(...times) - Math.min(...times), Math.min(...times)]);
    if (found.length < 60) requestAnimationFrame(look);
    else done(found);
  };
  look();
})"""


@needs_browser
def test_the_videos_of_a_row_keep_one_clock(runs, window):
    page = window.open(runs / "media", "gallery", sort="prompt")
    page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    page.get_by_role("button", name="Pause").wait_for()
    found = page.evaluate(APART)
    assert len({t for _, t in found}) > 5  # they do play; on a busy machine they have begun anew by now
    assert max(apart for apart, _ in found) < 0.05
    page.keyboard.press(" ")
    page.get_by_role("button", name="Play", exact=True).wait_for()
    counter = page.locator(".frames")
    before = int(counter.inner_text().split()[1].split("/")[0])
    step, to = (",", before - 1) if before == browser.FRAMES else (".", before + 1)
    page.keyboard.press(step)
    page.get_by_text(f"frame {to}/{browser.FRAMES}").wait_for()
    times = page.evaluate("[...document.querySelectorAll('.row video')].map((v) => v.currentTime)")
    assert len(times) == 3 and max(times) - min(times) < 0.001
    page.keyboard.press("-")
    assert page.get_by_label("Speed").input_value() == "0.5"


@needs_browser
def test_a_drag_scrubs_all_videos_of_a_row(runs, window):
    page = window.open(runs / "media", "gallery", sort="prompt")
    frame = page.locator(".frame").nth(1).bounding_box()
    x, y = frame["x"] + 20, frame["y"] + 40
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y)
    page.get_by_text(f"/{browser.FRAMES}").wait_for()  # its videos are loaded
    page.mouse.move(x + 200, y, steps=8)
    page.mouse.up()
    page.wait_for_load_state()
    for _ in range(200):
        times = page.evaluate("[...document.querySelectorAll('.row video')].map((v) => v.seeking ? -1 : v.currentTime)")
        if min(times) > 0.2 and max(times) - min(times) < 0.001:
            break
        page.evaluate("new Promise(requestAnimationFrame)")
    assert len(times) == 3 and min(times) > 0.2 and max(times) - min(times) < 0.001


@needs_browser
def test_numbers_marks_and_order_of_the_gallery(runs, window):
    page = window.open(runs / "media", "gallery", sort="prompt")
    first = page.locator(".row").first
    assert first.locator(".hacked").count() == 1 and "3.00" in first.inner_text()
    assert page.locator("video").count() == 0  # posters alone
    link = first.locator("a.original").first
    assert link.get_attribute("href") == "videos/000000-s0-single.mp4"
    page.get_by_role("button", name="failures").click()
    assert "failed" in page.locator(".row").first.inner_text()
    page.locator(".row").nth(1).locator(".frame").first.hover()
    page.locator("video").wait_for()
    assert page.locator("video").count() == 1
    page.keyboard.press("w")
    dialog = page.get_by_role("dialog")
    assert dialog.locator("video").count() == 2
    line = dialog.locator(".line")
    before = line.bounding_box()["x"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert line.bounding_box()["x"] > before
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")


@needs_browser
def test_at_most_sixteen_videos_are_there(runs, window):
    page = window.open(runs / "many", "gallery", cols=",".join(f"arm{i:02d}" for i in range(18)))
    page.locator(".frame").nth(2).hover()
    page.keyboard.press(" ")
    page.locator(".controls").wait_for()
    assert 10 < page.locator("video").count() <= 16


@needs_browser
def test_blind_votes_are_saved_as_csv(runs, window):
    page = window.open(runs / "media", "gallery", sort="prompt", blind="7")
    page.locator(".letter").first.wait_for()
    inside = page.locator(".rows").inner_text()
    assert not any(arm in inside for arm in browser.ARMS) and "3.00" not in inside
    assert page.locator("a.original").count() == 0
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.keyboard.press("0")
    with page.expect_download() as got:
        page.keyboard.press("d")
    votes = list(csv.DictReader(Path(got.value.path()).read_text().splitlines()))
    assert [v["prompt"] for v in votes] == [HOSTILE, HOSTILE, "a red circle moving left"]
    assert [v["seed"] for v in votes] == ["0", "1", "0"]
    shown = [v["shown"].split("|") for v in votes]
    assert all(sorted(s) == sorted(browser.ARMS) for s in shown)
    assert [votes[0]["winner"], votes[1]["winner"], votes[2]["winner"]] == [shown[0][0], shown[1][1], "tie"]
    assert votes[0]["winner_search"] == f"000000-s0-{shown[0][0]}" and votes[0]["blind_seed"] == "7"
    orders = []
    for seed in ("7", "7", "8", "9", "10"):
        page = window.open(runs / "media", "gallery", sort="prompt", blind=seed)
        page.locator(".letter").first.wait_for()
        orders.append(tuple(i.get_attribute("src") for i in page.locator(".frame img").all()))
    assert orders[0] == orders[1] and len(set(orders)) > 2


# -- tree ------------------------------------------------------------------------------------------------------------


@needs_browser
def test_the_tree_tells_of_a_candidate_and_how_to_make_it_again(runs, window):
    page = window.open(runs / "media", "tree", search="000001-s0-rgrp")
    rows = [
        r
        for r in pq.read_table(runs / "media" / "candidates.parquet").to_pylist()
        if r["search_id"] == "000001-s0-rgrp"
    ]
    best = browser.winner(rows)
    aside = page.locator(".candidate")
    aside.get_by_text(best[:12]).wait_for()
    assert "winner" in aside.inner_text()
    page.locator(".preview[role=img]").wait_for()
    page.keyboard.press("r")
    page.get_by_text("Copied the command").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("raysearch render ") and copied.endswith(f" --candidate {best[:12]}")
    page.keyboard.press("c")
    page.get_by_text("Copied the recipe").wait_for()
    assert best[:12] in page.evaluate("navigator.clipboard.readText()")
    seen = set()
    for key in ("ArrowLeft", "ArrowUp", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
        seen.add(aside.locator(".id").inner_text())
    assert len(seen) > 3 and seen <= {r["candidate"][:12] for r in rows}
    page.keyboard.press("Home")
    assert aside.locator(".id").inner_text() == best[:12]
    page.keyboard.press("t")
    page.get_by_text("reward of finished candidates").wait_for()


@needs_browser
@pytest.mark.parametrize("axis", ["sigma", "step", "nfe", "wall"])
def test_axes_and_chunks_of_a_long_video(axis, runs, window):
    page = window.open(runs / "long", "tree", search="000000-s0-best", tx=axis, order="reward")
    page.get_by_role("group", name="chunks").get_by_role("button", name="2").click()
    page.wait_for_url("**part=2*")
    pixels = page.evaluate("""() => { const c = document.querySelector("canvas");
      return new Set(new Uint32Array(c.getContext("2d").getImageData(0, 0, c.width, c.height).data.buffer)).size; }""")
    assert pixels > 20  # lines and dots in many colours


@needs_browser
def test_siblings_that_were_not_chosen_are_folded_in_a_large_tree(runs, window):
    page = window.open(runs / "folded", "tree")
    note = page.locator(".bar .note")
    page.get_by_text("not chosen, folded").wait_for()
    total, _, hidden = (int(w.replace(",", "")) for w in note.inner_text().split() if w[0].isdigit())
    assert total > 2000 and 400 < hidden < 1100  # of 1,600 trajectories a third is kept, and some have children
    small = window.open(runs / "one", "tree")
    small.get_by_text("trajectories").wait_for()
    assert "folded" not in small.locator(".bar .note").inner_text()


# -- a run that goes on ---------------------------------------------------------------------------------------------


@needs_browser
def test_a_page_that_is_served_follows_the_run(chromium, tmp_path):
    rows = [pages.search(p, 0, "single", 1.0) for p in range(3)]
    run = pages.folder(tmp_path / "run", searches=rows[:1])
    command = [sys.executable, "-m", "raysearch", "view", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=APP.parents[2]) as server:
        try:
            assert server.stdout is not None
            url = next(word for line in server.stdout for word in line.split() if word.startswith("http"))
            window = Window(chromium)
            page = window.open(url, "overview", q="caption")
            page.get_by_text("1 of 1 searches").wait_for()
            pages.folder(tmp_path / "later", searches=rows)
            (tmp_path / "later" / "searches.parquet").replace(run / "searches.parquet")
            page.get_by_text("3 of 3 searches").wait_for(timeout=120_000)
            assert "q=caption" in page.url  # what was chosen stays
            assert all(r.startswith((url, "about:", "data:", "blob:")) for r in window.requests)
            assert not window.errors
            window.context.close()
        finally:
            server.terminate()


# -- the bundle ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("node"), reason="to run the page's functions lacks: node")
def test_durations_of_a_page_are_rounded_before_they_are_divided():
    """119.6 s are never 1m60, nor 5399.6 s 1h29m60."""
    code = f"""import {{ duration }} from "{(APP / "src" / "format.js").as_uri()}";
    console.log([0.04, 89.9, 90, 119.4, 119.6, 5399.4, 5399.6, 7199.6, NaN].map(duration).join(" "));"""
    done = subprocess.run(["node", "--input-type=module", "-e", code], capture_output=True, timeout=60, check=True)
    assert done.stdout.decode() == "0.0 s 89.9 s 1m30 1m59 2m00 89m59 1h30 2h00 \u2013\n"


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="to build the page lacks: node and npm")
def test_the_bundle_is_what_its_sources_give(tmp_path):
    copy = tmp_path / "page" / "app"
    shutil.copytree(APP, copy, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copy(APP.parent / "app.html", copy.parent)
    if (APP / "node_modules" / ".package-lock.json").exists():
        os.symlink(APP / "node_modules", copy / "node_modules")
    else:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=copy, check=True, timeout=600, capture_output=True)
    done = subprocess.run(["node", "build.mjs", "--check"], cwd=copy, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
