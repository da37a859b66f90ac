"""The data of a report page against tables written by hand, and its comparisons against those of the run itself."""

import json
import shutil

import numpy as np
import pages
import pyarrow as pa
import pytest
from benchmarks import page_data
from fakes import run as searched
from fakes import session
from pages import Shown, folder, search
from sweeps import BEST, grid

from raysearch.__main__ import main
from raysearch.bootstrap import draws, interval
from raysearch.page import html, reading
from raysearch.page.block import Block
from raysearch.page.candidates import Candidates
from raysearch.page.failures import alike
from raysearch.page.manifest import made
from raysearch.session import status
from raysearch.session.session import Session
from raysearch.sweep.grid import write_report
from raysearch.testing import FakeBackend, run_virtual, virtual_now

ARMS = [
    {"name": "single", "policy": {"name": "single"}},
    {"name": "bon", "policy": {"name": "best_of_n", "n": 4}},
    {"name": "rgrp", "policy": {"name": "rgrp", "schedule": [2, 5, 7], "n": 4}},
]


def shown(path, *more) -> Shown:
    assert main(["report", str(path), *more]) == 0
    return Shown((path / "report.html").read_bytes())


def cells(rows, *names):
    return [tuple(r[n] for n in names) for r in rows]


# -- comparisons -----------------------------------------------------------------------------------------------------


def test_gains_and_means_are_those_that_the_run_itself_printed(tmp_path):
    judged = {"rewards": {"search": {"name": "fake"}, "holdout": {"name": "fake"}}}
    run_virtual(session(tmp_path / "run", arms=ARMS, prompts=list("abcd"), seeds=[0, 1, 2], **judged).run([]))
    page, told = shown(tmp_path / "run").manifest, status.read(tmp_path / "run")
    assert page["baseline"] == told.baseline == "single"
    assert page["measures"][0]["key"] == "reward_holdout"
    rows = {r["arm"]: r for r in page["comparisons"]["single"]["reward_holdout"]}
    assert list(rows) == list(told.arms)
    assert rows["single"]["delta"] is None and rows["single"]["pairs"] == 0
    for name in ("bon", "rgrp"):
        mine, its = rows[name], told.arms[name]
        assert mine["pairs"] == its.pairs == 12
        assert mine["delta"] == pytest.approx(its.gain)
        assert (mine["delta_high"] - mine["delta_low"]) / 2 == pytest.approx(its.gain_interval)
        assert mine["nfe"] == its.nfe / its.done and mine["seconds"] == pytest.approx(its.replica_seconds / its.done)
    for (name, its), component in zip(told.arms.items(), told.arms["bon"].components * 3, strict=True):
        row = {r["arm"]: r for r in page["comparisons"]["single"][f"holdout_{component}"]}[name]
        assert row["mean"] == pytest.approx(its.means[0])
        assert (row["high"] - row["low"]) / 2 == pytest.approx(its.intervals[0])


def test_differences_are_paired_and_failures_are_in_none(tmp_path):
    rows = [search(p, s, "single", 1.0 * p + s) for p in range(3) for s in (0, 1)]
    rows += [search(p, s, "best", 1.0 * p + s + gain) for p, s, gain in ((0, 0, 2.0), (0, 1, 0.0), (1, 0, -1.0))]
    rows += [search(1, 1, "best", None, status="failed", reason="x"), search(2, 0, "best", 9.0, status="cancelled")]
    page = shown(folder(tmp_path / "run", searches=rows)).manifest
    single, best = page["comparisons"]["single"]["reward_holdout"]
    assert (best["n"], best["pairs"], best["failed"]) == (3, 3, 1)
    assert best["delta"] == pytest.approx(1 / 3) and best["win"] == 0.5
    assert best["mean"] == pytest.approx((2.0 + 1.0 + 0.0) / 3)
    drawn = draws(np.array([2.0, 0.0, -1.0]), ["caption 0", "caption 0", "caption 1"], [0, 1, 0])
    assert (best["delta_low"], best["delta_high"]) == pytest.approx(interval(drawn))
    assert single["n"] == 6 and single["failed"] == 0
    turned = page["comparisons"]["best"]["reward_holdout"]
    assert cells(turned, "arm", "delta", "win") == [("single", pytest.approx(-1 / 3), 0.5), ("best", None, None)]
    found = Shown((tmp_path / "run" / "report.html").read_bytes()).table("searches")
    assert found["gain"] == [2.0, None, 0.0, None, -1.0, None, None, None, 7.0, None, None]


def test_an_arm_with_another_reward_than_the_baseline_gains_nothing_in_it(tmp_path):
    rows = [search(p, 0, a, float(p)) for p in range(3) for a in ("single", "best")]
    other = "arms: [{name: single}, {name: best, rewards: {holdout: {name: other}}}]\nrewards: {holdout: {name: one}}\n"
    page = shown(folder(tmp_path / "run", other, searches=rows)).manifest
    of = {m: rows[1] for m, rows in page["comparisons"]["single"].items()}
    assert (of["reward_holdout"]["delta"], of["reward_holdout"]["pairs"], of["reward_holdout"]["n"]) == (None, 0, 3)
    assert of["reward_search"]["delta"] == 0 and of["reward_search"]["win"] == 0.5


def test_where_noises_are_apart_captions_alone_are_drawn(tmp_path):
    rows = [search(p, p, a, p * (1.0 + (a == "best"))) for p in range(4) for a in ("single", "best")]
    page = shown(folder(tmp_path / "run", "arms: [{name: single}, {name: best}]\nseeds_apart: true\n", searches=rows))
    row = page.manifest["comparisons"]["single"]["reward_holdout"][1]
    drawn = draws(np.arange(4.0), [f"caption {p}" for p in range(4)])
    assert (row["delta_low"], row["delta_high"]) == pytest.approx(interval(drawn))


def test_many_arms_are_compared_with_the_runs_baseline_alone(tmp_path):
    names = [f"a{i:03d}" for i in range(150)]
    config = f"arms: [{', '.join(f'{{name: {n}}}' for n in names)}]\nbaseline: a007\n"
    page = shown(folder(tmp_path / "run", config, searches=[search(0, 0, n, 1.0) for n in names])).manifest
    assert list(page["comparisons"]) == ["a007"] and len(page["comparisons"]["a007"]["reward_holdout"]) == 150


def test_curves_are_those_of_the_sweeps_own_files(tmp_path):
    s = grid({"policy": {"name": "single"}}, BEST, rewards={"search": {"name": "fake"}, "holdout": {"name": "fake"}})
    run_virtual(Session(s.config, FakeBackend(), run_dir=tmp_path / "run", clock=virtual_now).run([]))
    write_report(s, tmp_path / "run")
    page = shown(tmp_path / "run").manifest
    assert page["run"]["kind"] == "sweep"
    curves = {c["series"]: c for c in page["curves"]["reward_holdout"]}
    assert [p["arm"] for p in curves["best_of_n"]["points"]] == ["best_of_n-n1", "best_of_n-n2", "best_of_n-n4"]
    rows = {r["arm"]: r for r in page["comparisons"]["single"]["reward_holdout"]}
    for point in curves["best_of_n"]["points"]:
        row = rows[point["arm"]]
        for k in ("n", "mean", "low", "high", "pairs", "delta", "delta_low", "delta_high"):
            assert point[k] == pytest.approx(row[k])
        assert point["cost"] == pytest.approx({k: row[k] for k in ("nfe", "seconds", "wall")})
    law = curves["best_of_n"]["law"]
    assert law["text"].startswith("r = ") and len(law["xs"]) == len(law["ys"]) == 60
    assert law["ys"][0] == pytest.approx(curves["best_of_n"]["points"][0]["mean"], abs=0.5)
    assert curves["single"]["law"] is None


# -- tables ----------------------------------------------------------------------------------------------------------


def test_columns_come_back_as_they_were():
    block = Block()
    values = {
        "whole": np.array([0, 5, 2**31 - 1]),
        "missing": pa.chunked_array([[1, None, 3]]),
        "large": np.array([0, 2**31]),
        "negative": pa.chunked_array([[-7, 0]]),
        "share": pa.chunked_array([[0.5, None], [float("inf")]]),
        "time": np.array([1.8e9 + 0.25]),
        "text": pa.chunked_array([["a", None], ["b", "a"]]),
        "many": pa.chunked_array([[f"t{i}" for i in range(300)]]),
        "more": pa.chunked_array([[f"t{i}" for i in range(70_000)]]),
        "yes": pa.chunked_array([[True, False, None]]),
        "lists": pa.chunked_array([pa.array([[1.5, 2.5], None, [3.5]], pa.list_(pa.float64()))]),
        "id": np.frombuffer(bytes.fromhex("0102ffee0000"), np.uint8).reshape(3, 2),
    }
    table = {k: block.column(v) for k, v in values.items()}
    content = pages.gzip.decompress(block.gzipped())
    found = {k: pages._column(c, content, c.get("width", 1)) for k, c in table.items()}
    assert found["whole"] == [0, 5, 2**31 - 1] and table["whole"]["type"] == "i32"
    assert found["missing"] == [1, None, 3]
    assert found["large"] == [0, 2**31] and found["negative"] == [-7, 0]
    assert found["share"] == [0.5, None, float("inf")] and table["share"]["type"] == "f32"
    assert found["time"] == [1.8e9 + 0.25]
    assert found["text"] == ["a", None, "b", "a"] and table["text"]["codes"] == "u8"
    assert found["many"] == [f"t{i}" for i in range(300)] and table["many"]["codes"] == "u16"
    assert found["more"][-1] == "t69999" and table["more"]["codes"] == "i32"
    assert found["yes"] == [1, 0, None]
    assert found["lists"] == [[1.5, 2.5], [None, None], [3.5, None]]
    assert found["id"] == ["0102", "ffee", None]
    assert block.column(pa.chunked_array([[{"a": 1}]])) is None


def candidate(search_id, name, parent, trajectory, **more):
    kind = "perturb" if parent else "noise"
    origin = {"kind": kind, "ordinal": 1, "parent": parent, "scope": "s"} if parent else {"kind": kind, "index": 3}
    row = {"search_id": search_id, "candidate": name * 16, "parent": parent and parent * 16, "trajectory": trajectory}
    row |= {"origin": json.dumps(origin | ({"parent": parent * 16} if parent else {}), separators=(",", ":"))}
    return row | {"step": 5, "sigma": 0.5, "by": "search", "reward": 1.0, "kept": True, "sharp": 0.5} | more


def test_candidates_know_their_parents_and_trajectories_by_number(tmp_path):
    one, two = "000000-s0-single", "000001-s0-single"
    rows = [
        candidate(one, "a1", None, "t1"),
        candidate(one, "b2", "a1", "t2", by=None, reward=None),
        candidate(one, "a1", None, "t1", by="early", step=7),
        candidate(two, "a1", None, "t1", preview=0),
        candidate(two, "c3", "b2", "t0"),  # of a parent that its own search never had
        candidate("000009-s0-single", "d4", None, "t9"),  # whose search is in no table yet
    ]
    searches = [search(0, 0, "single", 1.0, winner="b2" * 16), search(1, 0, "single", 1.0, winner="e5" * 16)]
    page = shown(folder(tmp_path / "run", searches=searches, candidates=rows))
    found = page.table("candidates")
    assert found["search"] == [0, 0, 0, 1, 1]
    assert found["candidate"] == [c * 6 for c in ("a1", "b2", "a1", "a1", "c3")]
    assert found["parent_row"] == [None, 0, None, None, None]
    assert found["trajectory"] == [0, 1, 0, 0, 1]
    assert found["kind"] == ["noise", "perturb", "noise", "noise", "perturb"]
    assert [json.loads(o) for o in found["origin"][:2]] == [{"index": 3}, {"ordinal": 1, "scope": "s"}]
    assert found["by"] == ["search", None, "early", "search", "search"]
    assert found["reward"] == [1.0, None, 1.0, 1.0, 1.0] and found["preview"] == [None, None, None, 0, None]
    assert page.manifest["components"] == ["sharp"]
    of = page.table("searches")
    assert (of["first_candidate"], of["candidates"], of["winner_row"]) == ([0, 3], [3, 2], [1, None])
    assert of["winner"] == ["b2" * 6, "e5" * 6]


def test_the_candidates_of_a_large_run_lie_in_shards(tmp_path, monkeypatch):
    page_data.write(tmp_path / "run", searches=40, candidates=360)
    whole = shown(tmp_path / "run")
    monkeypatch.setattr("raysearch.page.manifest.MOST_INLINE", 100)
    monkeypatch.setattr("raysearch.page.manifest.SHARD", 100)
    page = shown(tmp_path / "run")
    assert page.manifest["tables"]["candidates"] is None and len(page.manifest["shards"]) == 4
    expected, of, rows = whole.table("candidates"), page.table("searches"), 0
    assert any(r is not None and r > 0 for r in expected["parent_row"])
    for n, shard in enumerate(page.manifest["shards"]):
        call = (tmp_path / "run" / shard["file"]).read_text()
        assert call.startswith(f'window.raysearchShard({n}, "')
        found = pages.columns(shard["table"], pages.gzip.decompress(pages.base64.b64decode(call.split('"')[1])))
        assert shard["first_candidate"] == rows
        for k, values in found.items():
            then = expected[k][rows : rows + len(values)]
            assert values == ([r if r is None else r - rows for r in then] if k == "parent_row" else then), k
        for i in range(shard["first_search"], shard["first_search"] + shard["searches"]):
            row = of["winner_row"][i]
            assert row is not None and found["candidate"][row] == of["winner"][i]
        rows += shard["table"]["n"]
    assert rows == 360
    files = {p.name for p in (tmp_path / "run" / "report").iterdir()}
    assert files == {s["file"].rpartition("/")[2] for s in page.manifest["shards"]}
    alone = tmp_path / "alone.html"
    assert main(["report", str(tmp_path / "run"), "--to", str(alone)]) == 0
    assert Shown(alone.read_bytes()).table("candidates")["candidate"] == expected["candidate"]
    monkeypatch.undo()
    shown(tmp_path / "run")
    assert not list((tmp_path / "run" / "report").iterdir())  # no page names them any longer


def test_a_shard_holds_whole_searches_whatever_their_size():
    table = pa.table({"search_id": ["a"] * 5 + ["c"] * 2 + ["d"], "candidate": list("12345678")})
    of = Candidates.of(table, pa.table({"search_id": ["a", "b", "c", "d"]}))
    assert of.first.tolist() == [0, 5, 5, 7, 8]
    assert of.shards(3) == [(0, 1), (1, 4)] and of.shards(100) == [(0, 4)] and of.shards(5) == [(0, 2), (2, 4)]


def test_a_run_of_fakes_as_its_page_has_it(tmp_path):
    rows, _ = searched(tmp_path / "run", arms=ARMS, seeds=[0, 1])
    page = shown(tmp_path / "run")
    found = page.table("searches")
    assert found["search_id"] == [r["search_id"] for r in rows]
    for k in ("arm", "prompt", "seed", "status", "nfe", "decodes", "trials"):
        assert found[k] == [r[k] for r in rows]
    rewards = zip(found["reward_search"], (r["reward_search"] for r in rows), strict=True)
    assert all(a == b if b is None else a == pytest.approx(b, rel=1e-6) for a, b in rewards)
    assert found["winner"] == [r["winner"][:12] for r in rows]
    assert [a["name"] for a in page.manifest["arms"]] == ["single", "bon", "rgrp"]
    same = {"search": 0, "final": 1, "holdout": 2}  # the rewards of all arms
    assert page.manifest["arms"][1] == {"name": "bon", "policy": "best_of_n", "arguments": '{"n":4}', "rewards": same}
    costs = page.table("costs")
    assert costs["arm"] == ["single", "bon", "rgrp"] and costs["searches"] == [4, 4, 4]
    assert costs["nfe"] == [sum(r["nfe"] for r in rows if r["arm"] == a) for a in costs["arm"]]
    again = json.dumps(made(reading.read(tmp_path / "run")).manifest["tables"])
    assert again == json.dumps(page.manifest["tables"])


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ReplicaDied: 000001-s0-best died 3 times", "ReplicaDied: 000412-s7-single died 4 times"),
        ("item 6d62b31de6e51aa16f5e7ada7a78ff64 is gone", "item c97b639bdc37b5e73079f22d6e80dea5 is gone"),
        ("OutOfMemory: 2.50 GiB of 10.0.0.7:8471", "OutOfMemory: 13 GiB of 10.0.0.9:80"),
    ],
)
def test_reasons_that_differ_in_ids_and_numbers_are_alike(one, other):
    assert alike(one) == alike(other) and "…" in alike(one)


def test_reasons_that_differ_in_words_are_not_alike():
    assert alike("RewardError: VQ is not finite") != alike("RewardError: MQ is not finite")
    assert alike("a faded decade") == "a faded decade"  # words of hexadecimal letters are words


def test_failures_are_grouped_and_the_command_to_go_on_is_there(tmp_path):
    rows = [search(p, 0, "best", None, reason=f"RewardError: item {p} is odd") for p in range(3)]
    rows += [search(3, 0, "single", None, reason="IndexError: none"), search(4, 0, "best", 1.0)]
    page = shown(folder(tmp_path / "a run", searches=rows)).manifest
    assert cells(page["failures"], "reason", "n", "arms", "first") == [
        ("RewardError: item … is odd", 3, {"best": 3}, "000000-s0-best"),
        ("IndexError: none", 1, {"single": 1}, "000003-s0-single"),
    ]
    assert page["failures"][0]["what"] == "RewardError: item 0 is odd"
    where = f"'{tmp_path}/a run"
    again = f"python -m raysearch run {where}/config.yaml' 'run_dir={tmp_path}/a run' resume=require"
    assert page["run"]["again"] == again
    assert (page["run"]["searches"], page["run"]["done"], page["run"]["failed"]) == (5, 5, 4)


def test_the_command_to_go_on_is_taken_by_the_command_line(tmp_path):
    """A run's own config.yaml goes on with it."""
    searched(tmp_path / "run", arms=ARMS, prompts=["a"])
    (tmp_path / "run" / "status.json").unlink(missing_ok=True)
    (tmp_path / "run" / "searches.parquet").unlink()
    words = pages.shlex.split(shown(tmp_path / "run").manifest["run"]["again"])
    from raysearch.config import config as configuration
    from raysearch.session.directory import goes_on

    assert words[:4] == ["python", "-m", "raysearch", "run"]
    config = configuration.load(pages.Path(words[4]), words[5:])
    assert goes_on(pages.Path(config.run_dir), config, config.resume)


# -- the file ----------------------------------------------------------------------------------------------------------


def test_nothing_of_a_run_becomes_markup(tmp_path):
    page_data.write(tmp_path / "run", searches=10, candidates=20)
    page = shown(tmp_path / "run")
    content = (tmp_path / "run" / "report.html").read_bytes()
    assert page_data.HOSTILE in page.table("searches")["prompt"]
    (script,) = html.SCRIPT.findall(html.TEMPLATE.read_text())
    for inert in (b"onerror", b"<img", "\u2028".encode(), b"<!--"):
        assert inert not in content.replace(script.encode(), b"")
    hostile = "</script><script>alert(1)</script><!-- __COLUMNS__ __MANIFEST__ <head> \u2028\u2029 &amp; '\""
    config = f"arms: [{{name: single, policy: {{name: {json.dumps(hostile)}}}}}]\n"
    row = search(0, 0, "single", None) | dict.fromkeys(("prompt", "reason", "policy", "tag_x"), hostile)
    page = shown(folder(tmp_path / "other", config, searches=[row]))
    content = (tmp_path / "other" / "report.html").read_bytes()
    assert page.manifest["arms"][0]["policy"] == hostile and page.table("searches")["tag_x"] == [hostile]
    scripts = html.TEMPLATE.read_bytes().count(b"</script>")
    assert content.count(b"</script>") == scripts and content.count(b"<script") == scripts
    assert b"alert(1)<" not in content and b"<!--" not in content.replace(script.encode(), b"")


def test_the_policy_of_a_page_names_its_own_scripts_alone(tmp_path):
    template = "<head></head><script>one()</script><script>two()</script>"
    policy = html.policy(template)
    hashed = pages.base64.b64encode(pages.sha256(b"one()").digest()).decode()
    assert f"'sha256-{hashed}'" in policy and policy.count("sha256-") == 2
    assert "default-src 'none'" in policy and "connect-src 'none'" in policy
    assert "script-src 'unsafe" not in policy and "unsafe-eval" not in policy
    content = (pages.stopped(tmp_path / "run"), shown(tmp_path / "run"))[0].joinpath("report.html").read_text()
    named = html.policy(html.TEMPLATE.read_text())
    assert f'<head>\n<meta http-equiv="Content-Security-Policy" content="{named}">' in content


# -- media -----------------------------------------------------------------------------------------------------------


def with_media(path, rows, arm="best"):
    """A run whose searches have videos, posters and previews, the content of each its own name."""
    run = folder(path, searches=rows)
    for name, kind in (("videos", "mp4"), ("posters", "webp"), ("previews", "webp")):
        (run / name).mkdir()
        for r in rows:
            (run / name / f"{r['search_id']}.{kind}").write_bytes(f"{name} {r['search_id']}".encode())
    return run


ROWS = [search(p, 0, a, p * 1.0 + (p - 1) * 2 * (a == "best")) for p in range(3) for a in ("single", "best")]


def test_media_are_those_of_the_folders_own_layout_percent_encoded(tmp_path):
    rows = [*ROWS, search(3, 0, "a#b%20", 1.0, video="../../etc/passwd"), search(12345, 0, "best", 1.0)]
    run = with_media(tmp_path / "run", rows)
    (run / "videos" / "012000").mkdir()
    shutil.move(run / "videos" / "012345-s0-best.mp4", run / "videos" / "012000")
    (run / "videos" / "000000-s0-best.mp4").unlink()
    (run / "videos" / "000000-s0-best.mp4").symlink_to("/etc/passwd")
    (run / "posters" / "000000-s0-single.webp").unlink()
    found = shown(run).table("searches")
    videos = dict(zip(found["search_id"], found["video"], strict=True))
    assert videos["000000-s0-best"] is None  # a link
    assert videos["000003-s0-a#b%20"] == "videos/000003-s0-a%23b%2520.mp4"
    assert videos["012345-s0-best"] == "videos/012000/012345-s0-best.mp4"
    assert found["poster"][found["search_id"].index("000000-s0-single")] is None
    assert found["preview"][found["search_id"].index("000000-s0-single")] == "previews/000000-s0-single.webp"
    shutil.move(run / "videos", run / "elsewhere")
    (run / "videos").symlink_to(run / "elsewhere")
    assert set(shown(run).table("searches")["video"]) == {None}


def test_videos_that_gain_most_are_embedded_each_beside_the_baselines(tmp_path):
    run = with_media(tmp_path / "run", ROWS)
    embedded = shown(run, "--embed", "3").manifest["media"]["embedded"]
    assert list(embedded["videos"]) == ["000002-s0-best", "000002-s0-single", "000001-s0-best"]
    url = embedded["videos"]["000002-s0-best"]
    assert url == "data:video/mp4;base64," + pages.base64.b64encode(b"videos 000002-s0-best").decode()
    assert embedded["posters"].keys() == embedded["previews"].keys() == embedded["videos"].keys()
    assert shown(run).manifest["media"]["embedded"]["videos"] == {}
    assert len(shown(run, "--embed", "99").manifest["media"]["embedded"]["videos"]) == 6


def test_one_file_to_mail_has_no_links(tmp_path):
    run = with_media(tmp_path / "run", ROWS)
    alone = tmp_path / "mail.html"
    assert main(["report", str(run), "--embed", "1", "--to", str(alone), "--price", "3"]) == 0
    page = Shown(alone.read_bytes())
    assert not {"video", "poster", "preview"} & page.table("searches").keys()
    assert page.manifest["media"]["alone"] and list(page.manifest["media"]["embedded"]["videos"]) == ["000002-s0-best"]
    assert page.manifest["price"] == 3.0 and not (run / "report.html").exists()
