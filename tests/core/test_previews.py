"""Previews of candidates and posters of winners: which there are, where they lie, and that nothing else changes.

A fake strip is 16 bytes that say which latent was decoded, and a fake sprite is its strips one after the other.
"""

import pyarrow.parquet as pq
import pytest
from fakes import ARMS, GLIMPSES, cut, run, session

from raysearch.engine import engine
from raysearch.recipe.digests import digest
from raysearch.session import journal, previews
from raysearch.session.directory import found
from raysearch.testing import FakeBackend, FakeFleet, run_virtual

BEAM = {"name": "beam", "policy": {"name": "beam", "every": 3, "k": 2, "n": 2}}


def candidates(path):
    return pq.read_table(path / "candidates.parquet").to_pylist()


def shown(path, search_id):
    """The strips of a search's sprite from top to bottom."""
    file = found(path, "preview", search_id)
    data = file.read_bytes() if file else b""
    return [data[i : i + 16] for i in range(0, len(data), 16)]


def looked_at(fleet):
    """The strips of all latents that scorers looked at, by the rewards."""
    looks = [c for r in fleet.replicas for c in r.calls if c.name == "look"]
    return [digest("preview", (x := c.inputs["state 0"]).value, x.step) for c in looks]


@pytest.mark.parametrize("which", ["none", "kept", "all"])
def test_the_column_names_the_row_of_the_sprite(tmp_path, which):
    fleet = FakeFleet()
    run(tmp_path, fleet, arms=[*ARMS[1:], BEAM], output={"previews": which}, max_searches=1)
    rows, whole = candidates(tmp_path), set(looked_at(fleet))
    wanted = [r for r in rows if which == "all" or (which == "kept" and r["kept"])]
    there = [r for r in rows if r["preview"] is not None]
    assert [r for r in wanted if r["by"]] == [r for r in there if r["by"]]
    scored = {r["candidate"] for r in rows if r["by"]}
    assert all(r in wanted and r["candidate"] in scored for r in there)  # where there is no score another arm asked
    by_search, seen = {}, {}
    for r in there:
        by_search.setdefault(r["search_id"], {})[r["candidate"]] = r["preview"]
        strip = shown(tmp_path, r["search_id"])[r["preview"]]
        assert strip in whole and seen.setdefault(r["candidate"], strip) == strip  # arms share it
    for search_id, places in by_search.items():
        assert sorted(places.values()) == list(range(len(shown(tmp_path, search_id))))
    assert len(set(seen.values())) == len(seen) and (which == "none") == (not seen)
    assert (tmp_path / "previews").exists() == (which != "none")
    if which == "all":
        assert set(seen.values()) == whole
        assert len(whole) < len(there)  # best of 4 asks nothing that best of 8 does not


def test_nothing_else_depends_on_previews(tmp_path):
    """Neither winners nor costs, nor what is in the tables and in the journal besides."""
    tables = {}
    for which in ("none", "kept", "all"):
        run(tmp_path / which, arms=[*ARMS, BEAM], output={"previews": which, "posters": which != "none"})
        searches = pq.read_table(tmp_path / which / "searches.parquet")
        rest = pq.read_table(tmp_path / which / "candidates.parquet").drop_columns(["preview"])
        records = list(journal.read(tmp_path / which / "journal"))
        for r in records:
            r.get("candidates", {}).pop("preview", None)
        tables[which] = searches, rest, records
    assert tables["none"] == tables["kept"] == tables["all"]


def test_a_reward_that_decodes_nothing_has_no_preview(tmp_path):
    """Looks by rewards.early read latents; the candidates that rewards.search decoded are shown."""
    run(tmp_path / "early", arms=GLIMPSES, output={"previews": "all"})
    rows = candidates(tmp_path / "early")
    assert {r["by"] for r in rows} >= {"early", "search"}
    decoded = {r["candidate"] for r in rows if r["by"] == "search"}
    assert all((r["preview"] is not None) == (r["candidate"] in decoded) for r in rows if r["by"])
    run_virtual(session(tmp_path / "latent", FakeBackend(needs="latent"), arms=ARMS).run())
    assert {r["preview"] for r in candidates(tmp_path / "latent")} == {None}
    assert not (tmp_path / "latent" / "previews").exists()


def test_what_the_journal_answers_has_no_preview(tmp_path):
    values = {"arms": [BEAM], "prompts": ["a"], "output": {"previews": "all"}}
    run(tmp_path / "whole", **values)
    fleet = FakeFleet()
    run(cut(tmp_path / "whole", tmp_path / "run", 2), fleet, **values, resume="require")
    new = [r for r in candidates(tmp_path / "run") if r["preview"] is not None]
    assert 0 < len(new) < len(candidates(tmp_path / "run"))
    assert sorted(shown(tmp_path / "run", "000000-s0-beam")) == sorted(looked_at(fleet))


def test_a_search_that_failed_has_no_preview(tmp_path):
    fleet, looks = FakeFleet(), iter(range(100))
    fleet.replicas[1].fault = lambda call: ValueError("a bad day") if next(looks) == 6 else None
    (row,), _ = run(tmp_path, fleet, arms=[BEAM], prompts=["a"])
    assert row["status"] == "failed" and not (tmp_path / "previews").exists()
    assert {r["preview"] for r in candidates(tmp_path)} == {None}


def test_a_sprite_is_bounded():
    """Kept candidates go first, and of these the latest, in the table's order."""
    rows = [{"candidate": f"{i:032x}", "kept": i % 3 == 0} for i in range(200)]
    strips = {bytes.fromhex(r["candidate"]): b"%d" % i for i, r in enumerate(rows)}
    places = [int(s) for s in previews.chosen(rows, strips, "all").values()]
    assert places == sorted(places) and len(places) == previews.ROWS == 100
    assert {p for p in places if p % 3 == 0} == set(range(0, 200, 3))
    assert [p for p in places if p % 3] == [p for p in range(200) if p % 3][-33:]
    more = [r | {"kept": True} for r in rows]
    assert list(previews.chosen(more, strips, "kept")) == [r["candidate"] for r in rows[100:]]
    assert previews.chosen(rows, {}, "all") == {}


def test_a_run_remembers_only_so_many(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "STRIPS", 3)
    run(tmp_path, policy={"name": "best_of_n", "n": 8}, prompts=["a"], output={"previews": "all"})
    assert (
        sum(r["preview"] is not None for r in candidates(tmp_path)) == len(shown(tmp_path, "000000-s0-best_of_n")) == 3
    )


def test_previews_are_forgotten_with_the_searches_that_share_them(tmp_path):
    s = session(tmp_path, arms=ARMS, output={"previews": "all"})
    progress = run_virtual(s.run())
    assert progress.done == 8 and not progress.engine.strips


@pytest.mark.parametrize("fifo", [{}, {"fifo": {"partitions": 2}}], ids=["clips", "queue"])
def test_long_videos_show_their_chunks(tmp_path, fifo):
    policy = {"name": "scaling_noise", "k": 2, "n": 3}
    run(tmp_path, prompts=["a"], policy=policy, long={"chunks": 3, "prefix": 1, **fifo})
    rows = candidates(tmp_path)
    asked = {r["part"] for r in rows if r["by"]}
    assert asked == {r["part"] for r in rows if r["preview"] is not None} >= {0, 1, 2}
    assert len(shown(tmp_path, rows[0]["search_id"])) == len({r["candidate"] for r in rows if r["kept"] and r["by"]})
    assert found(tmp_path, "poster", rows[0]["search_id"])


# -- posters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("output", "there"), [
    ({}, True),
    ({"posters": False}, False),
    ({"videos": False}, False),
])  # fmt: skip
def test_posters_lie_beside_videos(tmp_path, output, there):
    rows, _ = run(tmp_path, arms=ARMS, output=output)
    posters = {p.stem for p in (tmp_path / "posters").glob("*.webp")}
    assert posters == ({r["search_id"] for r in rows} if there else set())


def test_a_run_without_posters_goes_on_without_making_its_searches_again(tmp_path):
    """As one of an earlier version; where a video lacks, its poster is made with it."""
    run(tmp_path, arms=ARMS, output={"posters": False})
    fleet = FakeFleet()
    run(tmp_path, fleet, arms=ARMS, resume="require")
    assert not any(r.calls for r in fleet.replicas) and not (tmp_path / "posters").exists()
    found(tmp_path, "mp4", "000001-s0-bon").unlink()
    run(tmp_path, fleet, arms=ARMS, resume="require")
    assert [p.name for p in (tmp_path / "posters").iterdir()] == ["000001-s0-bon.webp"]
