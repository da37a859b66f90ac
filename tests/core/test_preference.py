"""Pairs of a run's finished candidates against what its tables hold, searched by hand."""

from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import run

from raysearch.errors import ConfigError
from raysearch.export import command, preference

ARMS = [{"name": f"n{n}", "policy": {"name": "best_of_n", "n": n}} for n in (2, 4)]


def asked(run_dir, where, **more):
    """What a table of pairs holds, and what was asked to be rendered."""
    rendered, said = [], []

    def render(run_dir, picks, where, overrides, *, latents):
        rendered.append((picks, where, overrides))
        where.mkdir()
        for p in picks:
            (where / f"{p.candidate}.mp4").write_text(p.candidate)
        return 0

    request = command.Asked([command.PREFERENCE, str(where), "fleet.backend=local"], **more)
    assert command.export(run_dir, request, [], render, said.append) == 0
    return pq.read_table(where / preference.TABLE).to_pylist(), rendered, said


def test_the_best_and_the_worst_finished_candidate_of_a_prompt_and_a_seed(tmp_path):
    run(tmp_path / "run", arms=ARMS, seeds=[0, 1])
    rows, rendered, said = asked(tmp_path / "run", tmp_path / "out", no_files=True)
    assert said == [f"4 pairs in {tmp_path / 'out'}"] and not rendered
    scored = pq.read_table(tmp_path / "run" / "candidates.parquet").to_pylist()
    assert [(r["prompt"], r["seed"]) for r in rows] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    for r in rows:
        group = f"00000{'ab'.index(r['prompt'])}-s{r['seed']}-"
        ranked = sorted(
            {c["reward"]: c for c in scored if c["search_id"].startswith(group)}.values(), key=lambda c: c["reward"]
        )
        assert len(ranked) == 4  # the second arm's two first noises are the first arm's
        for side, c in (("chosen", ranked[-1]), ("rejected", ranked[0])):
            assert (r[side], r[f"{side}_reward"], r[f"{side}_quality"]) == (c["candidate"], c["reward"], c["quality"])
            assert (r[f"{side}_origin"], r[f"{side}_video"]) == (c["origin"], None)
        assert r["margin"] == ranked[-1]["reward"] - ranked[0]["reward"]
    margins = sorted(r["margin"] for r in rows)
    some, _, _ = asked(tmp_path / "run", tmp_path / "some", no_files=True, margin=margins[1])
    assert sorted(r["margin"] for r in some) == margins[1:]
    alone, _, _ = asked(tmp_path / "run", tmp_path / "alone", no_files=True, arm="n2")
    assert {r["chosen_search"].rpartition("-")[2] for r in alone} == {"n2"}


def test_files_are_winners_own_and_rendered_ones(tmp_path):
    run(tmp_path / "run", arms=ARMS[1:])
    rows, ((picks, where, overrides),), _ = asked(tmp_path / "run", tmp_path / "out")
    assert {p.candidate for p in picks} == {r["rejected"] for r in rows}  # the chosen ones won
    assert (where, overrides) == (tmp_path / "run" / "rendered", ["fleet.backend=local"])
    for r in rows:
        own = tmp_path / "run" / "videos" / f"{r['chosen_search']}.mp4"
        assert (tmp_path / "out" / r["chosen_video"]).read_bytes() == own.read_bytes()
        assert (tmp_path / "out" / r["rejected_video"]).read_text() == r["rejected"]
        assert r["chosen_video"] == f"videos/{r['chosen']}.mp4"
    _, again, _ = asked(tmp_path / "run", tmp_path / "again")
    assert not again  # what was rendered once is there


def test_candidates_on_the_way_are_in_no_pair(tmp_path):
    policy = {"name": "sequential", "n": 4, "looks": [3, 6], "bars": None, "enough": None}
    run(tmp_path / "run", arms=[{"name": "looking", "policy": policy}])
    scored = pq.read_table(tmp_path / "run" / "candidates.parquet").to_pylist()
    finished = {c["candidate"] for c in scored if c["sigma"] == 0}
    highest = {p: max((c for c in scored if c["search_id"][5] == p), key=lambda c: c["reward"]) for p in "01"}
    assert any(c["candidate"] not in finished for c in highest.values())  # a look saw more than the video has
    rows, _, _ = asked(tmp_path / "run", tmp_path / "out", no_files=True)
    assert len(rows) == 2 and {r[side] for r in rows for side in preference.SIDES} <= finished


def test_drafts_are_in_no_pair(tmp_path):
    draft = {"name": "draft_commit", "draft_steps": 4, "explore": {"name": "best_of_n", "n": 16}}
    run(tmp_path / "run", arms=[*ARMS, {"name": "draft", "policy": draft}])
    scored = [c for c in pq.read_table(tmp_path / "run" / "candidates.parquet").to_pylist() if c["by"]]
    lowest = {p: min((c for c in scored if c["search_id"][5] == p), key=lambda c: c["reward"]) for p in "01"}
    assert any((c["step"], c["sigma"]) == (4, 0.0) for c in lowest.values())
    rows, _, _ = asked(tmp_path / "run", tmp_path / "out", no_files=True)
    whole = {c["candidate"] for c in scored if c["step"] == 10}
    assert len(rows) == 2 and {r[side] for r in rows for side in preference.SIDES} <= whole
    with pytest.raises(ConfigError, match="two finished candidates"):
        asked(tmp_path / "run", tmp_path / "drafts", no_files=True, arm="draft")


def test_only_rewards_of_the_search_are_compared(tmp_path):
    run(tmp_path / "run", arms=ARMS)
    rows, _, _ = asked(tmp_path / "run", tmp_path / "out", no_files=True)
    file = tmp_path / "run" / "candidates.parquet"
    table = pq.read_table(file)
    by = ["early" if c == rows[0]["chosen"] else "search" for c in table["candidate"].to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("by"), "by", pa.array(by)), file)
    again, _, _ = asked(tmp_path / "run", tmp_path / "again", no_files=True)
    assert again[0]["chosen"] != rows[0]["chosen"] and again[1:] == rows[1:]


def test_mistakes_are_one_line(tmp_path):
    run(tmp_path / "run", arms=ARMS[:1])
    for more, said in [
        ({"by": "beauty"}, "--by"),
        ({"by": "nfe"}, "--by"),
        ({"margin": -1.0}, "--margin"),
        ({"margin": float("nan")}, "--margin"),
        ({"margin": 9.0}, "9 apart in reward"),
        ({"arm": "n3"}, "--arm"),
        ({"pattern": "x"}, "--pattern"),
    ]:
        with pytest.raises(ConfigError, match=said):
            asked(tmp_path / "run", tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()
    unlike = [a | {"rewards": {"search": {"name": name}}} for a, name in zip(ARMS, ("near", "pixel"), strict=True)]
    run(tmp_path / "unlike", arms=unlike)
    with pytest.raises(ConfigError, match=r"do not have the same rewards.search"):
        asked(tmp_path / "unlike", tmp_path / "out", no_files=True)
    unlike = [ARMS[0], ARMS[1] | {"sampler": {"num_steps": 8}}]
    run(tmp_path / "samplers", arms=unlike)
    with pytest.raises(ConfigError, match=r"--arm: None .* n2, n4: the arms do not have the same sampler"):
        asked(tmp_path / "samplers", tmp_path / "out", no_files=True)
    assert len(asked(tmp_path / "samplers", tmp_path / "alone", no_files=True, arm="n4")[0]) == 2
    run(tmp_path / "long", arms=ARMS[:1], long={"chunks": 2})
    with pytest.raises(ConfigError, match="pairs are of whole videos"):
        asked(tmp_path / "long", tmp_path / "out", no_files=True)


def test_a_reward_that_is_no_number_is_refused(tmp_path):
    run(tmp_path / "run", arms=ARMS[:1])
    file = tmp_path / "run" / "candidates.parquet"
    table = pq.read_table(file)
    values = [float("nan"), *table["reward"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.schema.get_field_index("reward"), "reward", pa.array(values)), file)
    with pytest.raises(ConfigError, match="finite"):
        asked(tmp_path / "run", tmp_path / "out", no_files=True)


def test_equal_rewards_are_no_pair(tmp_path):
    run(tmp_path / "run", arms=ARMS[:1])
    file = tmp_path / "run" / "candidates.parquet"
    table = pq.read_table(file)
    same = pa.array([1.0] * len(table))
    pq.write_table(table.set_column(table.schema.get_field_index("reward"), "reward", same), file)
    assert not any(a < b for a, b in pairwise(same.to_pylist()))
    with pytest.raises(ConfigError, match="two finished candidates"):
        asked(tmp_path / "run", tmp_path / "out", no_files=True)
