"""What a page may not replace, and runs of which no page, or no other one, may be made."""

import asyncio
import errno
import os
import stat

import numpy as np
import pages
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pages import Shown, folder, search

from raysearch.__main__ import main
from raysearch.bootstrap import draws, interval
from raysearch.page import reading
from raysearch.page.manifest import made
from raysearch.page.scaling import _laws
from raysearch.page.server import Live
from raysearch.sweep.curves import Fit, fit_table
from raysearch.sweep.report import LAWS


def run_of(path, config=pages.CONFIG, **more):
    return folder(path, config, searches=[search(p, 0, a, 1.0 + p) for p in (0, 1) for a in ("single", "best")], **more)


def refused(capsys, *words):
    """The one line of a command that was a mistake."""
    capsys.readouterr()
    assert main([str(w) for w in words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


# -- --to ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["notes", "other page", "link", "dangling link", "pipe"])
def test_a_page_replaces_nothing_but_a_page(tmp_path, capsys, what):
    run, to, other = run_of(tmp_path / "run"), tmp_path / "mail.html", tmp_path / "other.html"
    if what == "notes":
        to.write_text("my notes")
    elif what == "other page":
        to.write_text('<!doctype html>\n<html lang="en">\n<head>\n<title>mine</title>')
    elif what == "pipe":
        os.mkfifo(to)
    else:
        to.symlink_to(other)
        if what == "link":
            assert main(["report", str(run), "--to", str(other)]) == 0
    before = [(p.name, p.lstat().st_ino, p.lstat().st_size) for p in sorted(tmp_path.iterdir())]
    assert refused(capsys, "report", run, "--to", to).startswith(f"raysearch: --to: '{to}' is not allowed; it must be")
    assert [(p.name, p.lstat().st_ino, p.lstat().st_size) for p in sorted(tmp_path.iterdir())] == before


def test_a_page_of_its_own_replaces_an_older_one_and_others_may_read_it(tmp_path):
    run, to = run_of(tmp_path / "run"), tmp_path / "mail.html"
    before = os.umask(0o027)
    try:
        for price in ("1", "2"):
            assert main(["report", str(run), "--to", str(to), "--price", price]) == 0
            assert Shown(to.read_bytes()).manifest["price"] == float(price)
            assert stat.S_IMODE(to.stat().st_mode) == 0o640
    finally:
        os.umask(before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mail.html", "run"]


def test_shards_behind_a_link_are_another_runs(tmp_path, capsys, monkeypatch):
    run, other = run_of(tmp_path / "run"), tmp_path / "other"
    other.mkdir()
    (other / "shard-0-00.js").write_text("another run's")
    (run / "report").symlink_to(other)
    assert main(["report", str(run)]) == 0
    assert [p.read_text() for p in other.iterdir()] == ["another run's"]


# -- tables that cannot be read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["searches.parquet", "candidates.parquet", "config.yaml", "status.json"])
def test_a_file_that_the_disk_does_not_give_is_not_taken_for_none(tmp_path, capsys, monkeypatch, name):
    run = run_of(tmp_path / "run")
    assert main(["report", str(run)]) == 0
    before, opened = (run / "report.html").read_bytes(), reading.opened

    def failing(path, wanted):
        if wanted == name:
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, wanted)

    monkeypatch.setattr(reading, "opened", failing)
    assert f"a folder whose {name} can be read (Input/output error)" in refused(capsys, "report", run)
    assert (run / "report.html").read_bytes() == before


def test_a_folder_of_videos_that_the_disk_does_not_give_is_not_taken_for_none(tmp_path, capsys, monkeypatch):
    run = run_of(tmp_path / "run")

    def failing(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(reading.os, "scandir", failing)
    assert "a folder whose videos can be read (Permission denied)" in refused(capsys, "report", run)


# -- odd values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["[1]", "{a: b}", "1"])
def test_a_baseline_that_is_no_name_is_the_first_arm(tmp_path, baseline):
    run = run_of(tmp_path / "run", pages.CONFIG + f"baseline: {baseline}\n")
    assert main(["report", str(run)]) == 0
    assert Shown((run / "report.html").read_bytes()).manifest["baseline"] == "single"


@pytest.mark.parametrize("origin", ["[1]", '["kind"]', "3", "null", '"text"', "{"])
def test_an_origin_that_is_none_has_no_kind(tmp_path, origin):
    row = {"search_id": "000000-s0-single", "candidate": "ab" * 16, "origin": origin}
    run = run_of(tmp_path / "run", candidates=[row])
    assert main(["report", str(run)]) == 0
    assert Shown((run / "report.html").read_bytes()).table("candidates")["kind"] == [None]


def without_an_id(run):
    table = pq.read_table(run / "searches.parquet")
    ids = pa.array([None, *table["search_id"].to_pylist()[1:]])
    pq.write_table(table.set_column(0, "search_id", ids), run / "searches.parquet")


def test_a_search_without_an_id_is_one_line(tmp_path, capsys):
    run = run_of(tmp_path / "run")
    without_an_id(run)
    assert "a folder whose searches.parquet has an id for each search" in refused(capsys, "report", run)


def test_a_page_stays_as_it_was_whatever_a_reading_raises(tmp_path):
    run, now, readings = run_of(tmp_path / "run"), [0.0], []

    def broken(found):
        readings.append(found)
        if len(readings) > 1:
            raise TypeError("no such thing")
        return made(found)

    async def follow():
        live = Live(run, broken, lambda: now[0])
        first = await live.page()
        os.utime(run / "searches.parquet", (1, 1))
        for now[0] in (100.0, 101.0, 101.5):
            assert await live.page() is first
        assert len(readings) == 2 and "no such thing" in live.error  # it is read no sooner than after two seconds

    asyncio.run(follow())


# -- rewards that are not the same -----------------------------------------------------------------------------------


def test_nothing_is_gained_in_another_reward_than_the_baselines(tmp_path):
    other = "arms: [{name: single}, {name: best, rewards: {holdout: {name: other}}}, {name: more}]\n"
    rows = [search(p, 0, a, float(p + i)) for p in range(2) for i, a in enumerate(("single", "best", "more"))]
    run = folder(tmp_path / "run", other + "rewards: {holdout: {name: one}}\n", searches=rows)
    (run / "videos").mkdir()
    for r in rows:
        (run / "videos" / f"{r['search_id']}.mp4").write_bytes(b"video")
    assert main(["report", str(run), "--embed", "2"]) == 0
    page = Shown((run / "report.html").read_bytes())
    assert page.table("searches")["gain"] == [None, 2.0, None] * 2  # best, more, single
    single, best, more = (a["rewards"] for a in page.manifest["arms"])
    assert single == more and single["search"] == best["search"] and single["holdout"] != best["holdout"]
    assert set(page.manifest["media"]["embedded"]["videos"]) == {"000000-s0-more", "000000-s0-single"}


# -- what else a page says of a run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [0, 1])
def test_of_the_laws_of_a_curve_the_chosen_one_is_drawn(chosen):
    forms = list(LAWS)[:2]
    parameters = {"a": (1.0, 0.5, 1.5), "b": (2.0, 1.5, 2.5)}
    fits = [Fit("c", "p", "m", f, parameters, 0.9, 0.8, 5, i == chosen) for i, f in enumerate(forms)]
    (law,) = _laws(fit_table(fits)).values()
    assert (law.form, law.parameters) == (forms[chosen], parameters)


def test_a_collection_draws_captions_alone(tmp_path):
    config = "arms: [{name: single}, {name: best}]\nseeds_apart: false\ncollect: {levels: [0.5]}\n"
    drawn = [(p, s, a) for p in range(4) for s in (0, 1) for a in ("single", "best")]
    rows = [search(p, s, a, (p + 5.0 * s) * (a == "best")) for p, s, a in drawn]
    assert main(["report", str(folder(tmp_path / "run", config, searches=rows))]) == 0
    page = Shown((tmp_path / "run" / "report.html").read_bytes())
    row = page.manifest["comparisons"]["single"]["reward_holdout"][1]
    values, captions = np.repeat(np.arange(4.0), 2) + [0, 5] * 4, [f"caption {p}" for p in range(4) for _ in (0, 1)]
    assert (row["delta_low"], row["delta_high"]) == pytest.approx(interval(draws(values, captions)))
    assert row["delta_low"] != pytest.approx(interval(draws(values, captions, [0, 1] * 4))[0])  # not as if seeds shared
