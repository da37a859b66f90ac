"""Pages of runs that are not as one would like: under way, empty, failed, killed, older, damaged; and their usage."""

import json
import shutil

import numpy as np
import pages
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks import page_data
from fakes import ARMS, session
from fakes import run as searched
from pages import CONFIG, Shown, folder, search, stopped

from raysearch.__main__ import main
from raysearch.session import journal
from raysearch.testing import FakeBackend, FakeFleet, run_virtual


def shown(path) -> Shown:
    assert main(["report", str(path)]) == 0
    return Shown((path / "report.html").read_bytes())


# -- odd runs --------------------------------------------------------------------------------------------------------


def test_a_run_before_its_first_search(tmp_path):
    page = shown(stopped(tmp_path / "run"))
    assert page.table("searches")["search_id"] == [] and page.manifest["tables"]["candidates"] is None
    assert [a["name"] for a in page.manifest["arms"]] == ["single", "best"]
    assert page.manifest["measures"] == [] and page.manifest["comparisons"] == {"single": {}, "best": {}}
    assert page.manifest["run"]["state"] == "interrupted" and page.manifest["failures"] == []
    assert page.manifest["run"]["again"].startswith("python -m raysearch run ")
    assert page.manifest["tables"]["utilisation"] is None


def test_a_run_of_one_search_has_no_intervals(tmp_path):
    page = shown(folder(tmp_path / "run", "policy: {name: single}\n", searches=[search(0, 0, "single", 0.5)]))
    (row,) = page.manifest["comparisons"]["single"]["reward_holdout"]
    assert (row["n"], row["mean"], row["low"], row["high"]) == (1, 0.5, None, None)
    assert row["delta"] is row["delta_low"] is row["win"] is None and row["pairs"] == 0


def test_a_run_of_which_all_failed(tmp_path):
    rows = [search(p, 0, a, None, reason="no room") for p in range(2) for a in ("single", "best")]
    page = shown(folder(tmp_path / "run", searches=rows))
    assert page.manifest["measures"] == []
    assert page.manifest["failures"] == [
        {"reason": "no room", "n": 4, "arms": {"best": 2, "single": 2}, "first": "000000-s0-best", "what": "no room"}
    ]
    assert page.manifest["run"]["again"] and page.table("costs")["failed"] == [2, 2]


def test_a_run_under_way_and_one_that_was_killed(tmp_path):
    run = tmp_path / "run"
    page_data.write(run, searches=10, candidates=20, state="running")
    held = journal.Journal(run / "journal")
    live = shown(run).manifest["run"]
    assert (live["state"], live["left"], live["again"]) == ("running", 60.0, "")
    held.close()
    killed = shown(run).manifest["run"]
    assert (killed["state"], killed["left"]) == ("killed", None)
    assert killed["again"] == f"python -m raysearch run {run}/config.yaml run_dir={run} resume=require"


def test_a_run_that_was_interrupted_has_its_finished_searches(tmp_path):
    def broken(call):
        return ConnectionError("gone") if call.name == "finish" and len(done) > 2 else done.append(call) and None

    done: list = []
    fleet = FakeFleet()
    for r in fleet.replicas:
        if r.kind == "scorer":
            r.fault = broken
    run_virtual(session(tmp_path / "run", FakeBackend(fleet), arms=ARMS, prompts=["a"]).run([]))
    page = shown(tmp_path / "run")
    statuses = page.table("searches")["status"]
    assert "failed" in statuses and page.manifest["run"]["failed"] == statuses.count("failed")
    assert page.manifest["run"]["state"] == "finished" and page.manifest["run"]["again"]


def test_an_older_run_lacks_columns_and_files(tmp_path):
    searched(tmp_path / "new", arms=ARMS, prompts=["a", "b"])
    whole = shown(tmp_path / "new")
    keep = {"searches": {"search_id", "arm", "prompt", "seed", "status", "reward_search"}}
    keep["candidates"] = {"search_id", "candidate", "step", "reward"}
    old = folder(tmp_path / "old", (tmp_path / "new" / "config.yaml").read_text())
    for name, columns in keep.items():
        pq.write_table(
            pq.read_table(tmp_path / "new" / f"{name}.parquet", columns=sorted(columns)), old / f"{name}.parquet"
        )
    page = shown(old)
    assert page.table("candidates")["candidate"] == whole.table("candidates")["candidate"]
    assert set(page.table("candidates")["parent_row"]) == {None} and "trajectory" not in page.table("candidates")
    assert page.table("searches")["search_id"] == whole.table("searches")["search_id"]
    assert page.manifest["run"]["nfe"] is None and page.manifest["run"]["again"] == ""
    row = page.manifest["comparisons"]["single"]["reward_search"][1]
    assert row["nfe"] is None and row["n"] == 2


def test_a_copy_without_its_journal_is_read_all_the_same(tmp_path):
    run_virtual(session(tmp_path / "run", arms=ARMS, prompts=["a"]).run([]))
    shutil.rmtree(tmp_path / "run" / "journal")
    assert shown(tmp_path / "run").manifest["run"]["state"] == "finished"


def test_a_run_of_another_versions_status_is_read_all_the_same(tmp_path):
    run = folder(tmp_path / "run", searches=[search(0, 0, "single", 1.0)])
    (run / "status.json").write_text('{"state": "happy"}')
    assert shown(run).manifest["run"]["state"] is None


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ("collect: {levels: [0.5]}\n", "collection"),
        ("long: {chunks: 7, fifo: {partitions: 6}}\n", "queue"),
        ("long: {chunks: 7, fifo: null}\n", "long"),
        ("long: {chunks: 1}\n", "run"),
        ("long: 3\narms: {a: b}\nrewards: [1]\npolicy: 7\n", "run"),
        ("[1, 2]\n", "run"),
        ("a: [\n", "run"),
        ("\x00\xff", "run"),
    ],
)
def test_the_kind_of_a_run_and_configs_that_are_none(tmp_path, config, kind):
    page = shown(folder(tmp_path / "run", config, searches=[search(0, 0, "single", 1.0)]))
    assert page.manifest["run"]["kind"] == kind
    assert [a["name"] for a in page.manifest["arms"]] == ["single"] and page.manifest["baseline"] == "single"


def test_a_run_of_images(tmp_path):
    run = folder(tmp_path / "run", searches=[search(0, 0, "single", 1.0)])
    (run / "images").mkdir()
    (run / "images" / "000000-s0-single.png").write_bytes(b"image")
    page = shown(run)
    assert page.manifest["run"]["kind"] == "image"
    assert page.table("searches")["video"] == ["images/000000-s0-single.png"]


def test_the_chunks_of_long_videos_are_lists(tmp_path):
    rows = [search(0, 0, "single", 1.0, holdout_VQ_chunks=[0.5, 1.0]), search(1, 0, "single", None)]
    found = shown(folder(tmp_path / "run", searches=rows)).table("searches")
    assert found["holdout_VQ_chunks"] == [[0.5, 1.0], [None, None]]


def test_columns_of_other_types_are_left_out_and_of_wrong_ones_refused(tmp_path, capsys):
    run = folder(tmp_path / "run", searches=[search(0, 0, "single", 1.0, odd={"a": 1}, when=None)])
    assert "odd" not in shown(run).table("searches")
    table = pq.read_table(run / "searches.parquet")
    texts = pa.array(["much"])
    pq.write_table(table.set_column(table.column_names.index("nfe"), "nfe", texts), run / "searches.parquet")
    capsys.readouterr()
    assert main(["report", str(run)]) == 2
    assert "searches.parquet is a run's" in capsys.readouterr().err


def test_tables_that_are_links_are_not_followed(tmp_path):
    run = folder(tmp_path / "run", searches=[search(0, 0, "single", 1.0)], timeline=[moment(0)])
    (run / "searches.parquet").rename(tmp_path / "elsewhere.parquet")
    (run / "searches.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    (run / "status.json").symlink_to(tmp_path / "status.json")
    assert shown(run).table("searches")["search_id"] == []


def test_a_report_that_is_a_link_is_replaced_and_not_written_through(tmp_path):
    run = stopped(tmp_path / "run")
    (tmp_path / "other.html").write_text("mine")
    (run / "report.html").symlink_to(tmp_path / "other.html")
    shown(run)
    assert (tmp_path / "other.html").read_text() == "mine" and not (run / "report.html").is_symlink()


# -- usage -----------------------------------------------------------------------------------------------------------


def item(start, end, **more):
    row = {"session": 0, "start": 100.0 + start, "end": 100.0 + end, "waited": 0.5, "kind": "denoiser"}
    row |= {"what": "denoise", "search": 0, "nfe": 10, "seconds": 1.0, "ended": "done"}
    return row | more


def moment(at, session=0, **more):
    row = {"at": 100.0 + at, "elapsed": at - 1000.0 * session, "session": session, "slots_denoiser": 4}
    return (
        row
        | {
            "busy_denoiser": 1,
            "waiting_denoiser": 3,
            "slots_encoder": None,
            "restarts": 1,
            "evicted": 0,
            "recomputed": 2,
            "wasted": 30,
        }
        | more
    )


def test_busy_slots_are_counted_out_of_the_trace(tmp_path, monkeypatch):
    monkeypatch.setattr("raysearch.page.usage.BINS", 4)
    items = [item(0, 10), item(5, 15), item(30, 40, kind="scorer", what="look")]
    page = shown(folder(tmp_path / "run", trace=items, timeline=[moment(0), moment(20, slots_denoiser=8), moment(40)]))
    found = page.table("utilisation")
    assert found["at"] == [100.0, 110.0, 120.0, 130.0] and found["elapsed"] == [0, 10, 20, 30]
    assert found["width_s"] == [10] * 4 and found["session"] == [0] * 4
    assert found["busy_denoiser"] == pytest.approx([1.5, 0.5, 0, 0])
    assert found["busy_scorer"] == pytest.approx([0, 0, 0, 1])
    assert found["slots_denoiser"] == [4, 4, 8, 8] and found["waiting_denoiser"] == [3] * 4
    assert "slots_encoder" not in found and "busy_encoder" not in found


def test_without_a_trace_busy_slots_are_those_of_the_timeline(tmp_path):
    rows = [moment(t, busy_denoiser=t // 10) for t in range(0, 40, 10)]
    found = shown(folder(tmp_path / "run", timeline=rows)).table("utilisation")
    assert len(found["at"]) == 300
    assert found["busy_denoiser"][:100] == [0] * 100 and found["busy_denoiser"][-100:] == [2] * 100


def test_the_time_between_two_sessions_is_left_out(tmp_path):
    rows = [moment(0), moment(10), moment(1000, session=1, restarts=5), moment(1030, session=1, restarts=6)]
    page = shown(folder(tmp_path / "run", timeline=rows))
    found = page.table("utilisation")
    assert [found["session"].count(s) for s in (0, 1)] == [75, 225]
    assert max(found["elapsed"]) < 40 and found["at"][75] == 1100.0
    assert [page.manifest["run"][k] for k in ("restarts", "recomputed", "wasted")] == [7, 4, 60]
    assert page.table("timeline")["at"] == [100.0, 110.0, 1100.0, 1130.0]


def test_costs_by_arm(tmp_path):
    rows = [search(p, 0, a, 1.0) for p in range(2) for a in ("best", "single")]
    items = [item(0, 1, search=0), item(0, 1, search=2, seconds=None, ended="died"), item(0, 1, search=1, nfe=30)]
    items += [item(0, 1, search=3, what="look", nfe=0, seconds=0.25), item(0, 1, search=None, what="encode")]
    candidates = [
        {"search_id": "000000-s0-best", "candidate": c, "trajectory": t, "making_s": m, "scoring_s": 0.5}
        for c, t, m in (("a", "t1", 1.0), ("b", "t1", 3.0), ("c", "t2", 2.0))
    ]
    run = folder(tmp_path / "run", CONFIG, searches=rows, trace=items, candidates=candidates)
    found = shown(run).table("costs")
    assert found["arm"] == ["single", "best"] and found["searches"] == [2, 2]
    assert found["denoise_s"] == [1.0, 1.0] and found["look_s"] == [0.0, 0.25] and found["encode_s"] == [0, 0]
    assert found["nfe_run"] == [20, 30] and found["items"] == [2, 2] and found["lost_items"] == [1, 0]
    assert found["making_s"] == [0, 5.0] and found["scoring_s"] == [0, 1.5]
    assert found["waited_s"] == [1.0, 1.0] and found["replica_seconds"] == [4.0, 4.0]


def test_the_page_of_a_large_run_has_every_candidate_in_few_bytes(tmp_path):
    page_data.write(tmp_path / "run", searches=2000, candidates=20_000)
    page = shown(tmp_path / "run")
    assert page.table("candidates")["search"] == np.repeat(np.arange(2000), 10).tolist()
    size = (tmp_path / "run" / "report.html").stat().st_size
    assert size < 40 * 20_000 + 250_000 and len(json.dumps(page.manifest)) < 200_000
    parents = page.table("candidates")["parent_row"]
    known = [(i, p) for i, p in enumerate(parents) if p is not None]
    rows = pq.read_table(tmp_path / "run" / "candidates.parquet", columns=["candidate", "parent"]).to_pylist()
    assert len(known) == sum(r["parent"] is not None for r in rows)
    assert all(rows[i]["parent"] == rows[p]["candidate"] for i, p in known)
    assert pages.columns(page.manifest["tables"]["costs"], page.block)["arm"] == list(page_data.ARMS)
