"""Whole runs on fakes in virtual time: the rules that make a candidate its recipe, each by what would break it."""

import asyncio
import gc
import itertools
import json
import random
import resource
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import ARMS, GLIMPSES, config, run, same, session, unequal_fleet

from raysearch.errors import ConfigError, FolderError, InputLost, ReplicaDied
from raysearch.files import Folder
from raysearch.parquet import Table
from raysearch.recipe.candidate import Candidate, Prompt, denoise
from raysearch.recipe.origins import Noise
from raysearch.session import journal
from raysearch.session.tables import schema
from raysearch.testing import FakeBackend, FakeFleet, FakeLatent, FakeReplica, run_virtual


def test_same_winners_on_any_fleet_and_in_any_order_of_completion(tmp_path):
    arms = [*ARMS, *GLIMPSES]
    expected, _ = run(tmp_path / "one", FakeFleet(1, 1), arms=arms, seeds=[0, 1])
    assert [r["status"] for r in expected] == ["done"] * 28
    for i, (denoisers, slots) in enumerate([(3, 5), (2, 1), (7, 2)]):
        rows, _ = run(
            tmp_path / str(i), unequal_fleet(denoisers, slots, i), arms=arms, seeds=[0, 1], max_searches=3 + i
        )
        assert same(rows) == same(expected)


def test_an_arm_has_the_same_winner_and_charge_alone_and_beside_others(tmp_path):
    together, _ = run(tmp_path / "together", arms=ARMS)
    for arm in ARMS:
        alone, _ = run(tmp_path / arm["name"], arms=[arm])
        assert same(alone) == [r for r in same(together) if r["search_id"].endswith(f"-{arm['name']}")]


def test_arms_pay_once_for_what_they_share(tmp_path):
    nested = [{"name": f"n{n}", "policy": {"name": "best_of_n", "n": n}} for n in (1, 2, 4, 8, 16, 32, 64)]
    rows, progress = run(tmp_path / "run", FakeFleet(4, 4), arms=nested, prompts=["a"])
    assert progress.engine.nfe == 64 * 20  # and not 127
    assert progress.engine.decodes == 64 + 7  # each arm's video is decoded once more to be written
    assert {r["arm"]: r["nfe"] for r in rows} == {f"n{n}": n * 20 for n in (1, 2, 4, 8, 16, 32, 64)}
    assert sum(r["nfe_spent"] for r in rows) == 64 * 20


def test_what_is_never_scored_or_returned_is_never_made(tmp_path):
    fleet = FakeFleet()
    run(tmp_path / "run", fleet, arms=ARMS[:1], prompts=["a"])
    calls = [c for r in fleet.replicas for c in r.calls if c.name == "denoise"]
    assert [(c.request.step, c.request.until) for c in calls] == [(0, 10)]


def test_captions_are_encoded_once(tmp_path):
    fleet = FakeFleet(2, 2)
    run(tmp_path / "run", fleet, arms=ARMS, seeds=[0, 1, 2])
    texts = [c.request.what.text for c in fleet.replicas[-1].calls]
    assert sorted(texts) == ["", "a", "b"]


def test_lost_latents_are_made_again_from_their_recipes(tmp_path):
    expected, _ = run(tmp_path / "expected", arms=ARMS)
    rng = random.Random(0)
    losses = []

    def lose(call):
        if any(isinstance(i, FakeLatent) for i in list(call.inputs.values())[:1]) and rng.random() < 0.2:
            losses.append(call)
            return InputLost("gone")
        return None

    fleet = FakeFleet(3, 2, 2)
    for r in fleet.replicas:
        r.fault = lose
    rows, progress = run(tmp_path / "run", fleet, arms=ARMS)
    assert len(losses) > 5
    assert progress.engine.recomputed >= len(losses) / 2
    assert same(rows) == same(expected)


def test_a_store_of_one_latent_changes_the_work_and_not_the_winners(tmp_path):
    expected, roomy = run(tmp_path / "expected", arms=ARMS)
    rows, tight = run(tmp_path / "run", arms=ARMS, fleet={"store_gb": 1e-6})
    assert same(rows) == same(expected)
    assert tight.engine.store.nbytes <= 1000
    assert tight.engine.nfe > roomy.engine.nfe


def test_replicas_that_join_while_a_run_goes_on_work_and_change_nothing(tmp_path):
    expected, _ = run(tmp_path / "one", FakeFleet(1, 1), arms=ARMS)
    late = [(20.0 + i, FakeReplica(f"late-{i}", "denoiser", f"node-{i}", slots=2)) for i in range(3)]
    rows, progress = run(tmp_path / "run", FakeFleet(1, 1, arriving=late), arms=ARMS)
    assert [r["winner"] for r in rows] == [r["winner"] for r in expected]
    assert all(r.calls for _, r in late)
    assert progress.dispatcher.tally.slots["denoiser"] == 7


def test_replicas_that_die_change_nothing(tmp_path):
    expected, _ = run(tmp_path / "expected", arms=ARMS)
    rng = random.Random(1)
    fleet = FakeFleet(3, 2, 2)
    for r in fleet.replicas[:3]:
        r.fault = lambda call: ReplicaDied("killed") if rng.random() < 0.1 else None
    rows, progress = run(tmp_path / "run", fleet, arms=ARMS)
    assert progress.dispatcher.tally.deaths > 3
    assert same(rows) == same(expected)


@pytest.mark.parametrize(("answer", "reason"), [([float("nan")], "not finite"), ([0.1, 0.2], "answered 2 components")])
def test_a_bad_reward_fails_its_search_and_no_other(tmp_path, answer, reason):
    class Scorer(FakeReplica):
        async def _score(self, request, inputs):
            good = await super()._score(request, inputs)
            if request.captions[0] != "a":
                return good
            return replace(good, reply=replace(good.reply, rewards=[dict.fromkeys(*good.reply.rewards, answer)]))

    fleet = FakeFleet(replicas=[Scorer("s", "scorer"), *FakeFleet().replicas])
    fleet.replicas = [r for r in fleet.replicas if r.id != "scorer-0"]
    rows, progress = run(tmp_path / "run", fleet, arms=ARMS[1:2])
    assert [r["status"] for r in rows] == ["failed", "done"]
    assert reason in rows[0]["reason"]
    assert progress.failed == 1


def test_a_budget_ends_a_search_with_the_best_it_has(tmp_path):
    rows, _ = run(tmp_path / "run", arms=ARMS[3:], budget={"nfe": 70}, prompts=["a"])
    candidates = pq.read_table(tmp_path / "run" / "candidates.parquet").to_pylist()
    (row,) = rows
    assert (row["status"], row["reason"]) == ("budget", "budget.nfe=70")
    assert row["nfe"] <= 70
    assert row["reward_search"] == max(c["reward"] for c in candidates if c["by"])


def test_the_budget_is_of_the_search_alone(tmp_path):
    """Beside an arm that has made everything already, a budget ends the search at the same place."""
    limited = ARMS[3] | {"name": "limited", "budget": {"nfe": 70}}
    alone, _ = run(tmp_path / "alone", arms=[limited])
    beside, _ = run(tmp_path / "beside", arms=[ARMS[3], limited], max_searches=1)
    assert same(alone) == [r for r in same(beside) if r["search_id"].endswith("limited")]


async def unscored(ctx, *, n: int = 3):
    """Spends most of its budget on some candidates and returns another."""
    await ctx.score(ctx.denoise(ctx.noise(n), 8))
    return ctx.noise()[0]


def test_a_winner_that_was_never_scored_does_not_break_the_budget(tmp_path):
    policy = {"name": "test_session:unscored"}
    rows, _ = run(tmp_path / "enough", policy=policy, budget={"nfe": 80}, prompts=["a"])
    assert [(r["status"], r["nfe"]) for r in rows] == [("done", 74)]
    rows, _ = run(tmp_path / "short", policy=policy, budget={"nfe": 60}, prompts=["a"])
    assert [(r["status"], r["reason"]) for r in rows] == [("budget", "budget.nfe=60")]
    assert rows[0]["nfe"] <= 60 and rows[0]["reward_search"] is not None


def test_a_session_may_be_made_inside_a_running_event_loop(tmp_path):
    async def made():
        return session(tmp_path / "run", policy={"name": "best_of_n", "n": 4})

    made_there = asyncio.run(made())
    made_there.journal.close()
    assert made_there.costs["best_of_n"].nfe == 80


def test_a_table_is_rewritten_with_every_search_until_that_takes_its_share_of_the_time(tmp_path):
    times = iter([0, 0, 0, 1, 10, 22, 22, 23])  # made; asked, begun, written; asked; asked, begun, written
    recorded = []
    table = Table(
        Folder(tmp_path), "t.parquet", schema({"search_id": pa.string()}, []), 5, lambda: recorded, lambda: next(times)
    )

    def add(name):
        recorded.append([{"search_id": name}])
        table.add(name, recorded[-1])

    def seen():
        return pq.read_table(table.path)["search_id"].to_pylist()

    add("b")  # at 0: written in a second, so due again at 1 + 20
    assert seen() == ["b"]
    add("c")  # at 10
    assert seen() == ["b"]
    add("a")  # at 22
    assert seen() == ["a", "b", "c"]


def test_rows_that_wait_are_bounded(tmp_path):
    recorded = []
    table = Table(
        Folder(tmp_path), "t.parquet", schema({"search_id": pa.string()}, []), 7, lambda: recorded, lambda: 0.0
    )
    table._due = 1.0  # never

    for i in range(4):
        recorded.append([{"search_id": str(i)}] * (1 if i else 2))
        table.add(str(i), recorded[-1])
        assert table.path.exists() == (i == 3)


def test_rows_and_files(tmp_path):
    rows, _ = run(tmp_path / "run", arms=ARMS, output={"latents": True, "frames": True})
    folder = tmp_path / "run"
    assert [r["search_id"] for r in rows] == sorted(r["search_id"] for r in rows)
    assert {p.name for p in folder.iterdir()} == {
        *("config.yaml", "journal", "searches.parquet", "candidates.parquet", "videos", "latents", "frames")
    }
    for r in rows:
        assert (folder / r["video"]).is_file()
        assert (folder / "latents" / f"{r['search_id']}.safetensors").is_file()
        assert (folder / "frames" / f"{r['search_id']}.npy").is_file()
    candidates = pq.read_table(folder / "candidates.parquet").to_pylist()
    assert [c["search_id"] for c in candidates] == sorted(c["search_id"] for c in candidates)
    best = [c for c in candidates if c["search_id"] == "000000-s0-bon"]
    assert [json.loads(c["origin"])["index"] for c in best] == [0, 1, 2, 3]
    assert [c["kept"] for c in best] == [c["reward"] == max(b["reward"] for b in best) for c in best]
    pruned = [c for c in candidates if c["search_id"] == "000000-s0-rgrp"]
    later = [{c["origin"] for c in pruned if c["step"] == s} for s in (3, 6, 8)]
    assert [{c["origin"] for c in pruned if c["step"] == s and c["kept"]} for s in (3, 6)] == later[1:]


def test_every_answer_is_in_the_journal_and_names_a_candidate_that_can_be_made_again(tmp_path):
    run(tmp_path / "run", arms=ARMS[1:2], prompts=["a"])
    records = list(journal.read(tmp_path / "run" / "journal"))
    assert [r["kind"] for r in records] == ["answer", "search"]
    sampler = FakeBackend().prepare(config(), []).arms
    assert sampler == ()
    from raysearch.testing import fake_sampler

    made = [denoise(Candidate(Prompt("a"), fake_sampler(10), Noise(0, i)), 10).id for i in range(4)]
    assert records[0]["asked"] == made


def test_after_a_record_that_the_disk_took_in_part_none_is_taken(tmp_path):
    """A record after a torn one could not be read, and what a policy made of the error must not be recorded."""
    j = journal.Journal(tmp_path)
    j.add({"i": 0})
    bound, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / journal.ANSWERS).stat().st_size + 10, hard))
    try:
        with pytest.raises(FolderError, match=r"answers.jsonl' cannot be written \(File too large\)"):
            j.add({"i": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bound, hard))
    with pytest.raises(FolderError, match="File too large"):
        j.add({"i": 2})
    j.close()
    j = journal.Journal(tmp_path)
    j.add({"i": 3})
    assert [r["i"] for r in journal.read(tmp_path)] == [0, 1, 3]  # the rest of 1 was written at the end
    j.close()


def test_a_torn_last_record_is_dropped(tmp_path):
    book = journal.Journal(tmp_path)
    for i in range(3):
        book.add({"i": i})
    book.close()
    path = tmp_path / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    assert [r["i"] for r in journal.read(tmp_path)] == [0, 1]


def test_the_dry_run_gives_the_cost_of_the_run(tmp_path):
    s = session(tmp_path / "run", arms=ARMS[:3], prompts=["a"])
    progress = run_virtual(s.run())
    for arm, cost in s.costs.items():
        charged = progress.arms[arm].cost
        assert (cost.nfe, cost.decodes, cost.reward_calls) == (charged.nfe, charged.decodes, charged.reward_calls)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"policy": {"name": "rgrp", "schedule": [2, 10]}}, "policy.schedule"),
        ({"policy": {"name": "best_of_n", "n": 0}}, "policy.n"),
        ({"budget": {"nfe": 19}}, "budget.nfe"),
    ],
)
def test_mistakes_are_found_before_anything_starts_and_leave_nothing(tmp_path, values, line):
    with pytest.raises(ConfigError, match=line):
        session(tmp_path / "run", **values)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_files_is_refused_and_kept(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ConfigError, match="run_dir"):
        session(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_an_interrupted_run_says_so_in_its_rows(tmp_path):
    prepared = session(tmp_path / "run", arms=ARMS[1:2], max_searches=1)

    async def cancel():
        task = asyncio.create_task(prepared.run())
        await asyncio.sleep(60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_virtual(cancel())
    rows = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    assert [r["status"] for r in rows] == ["done", "cancelled"]


def test_what_arms_share_is_kept_until_the_last_of_them_has_ended(tmp_path):
    """One search at a time: eight candidates of ten guided steps for each prompt, whichever arm asks for them first."""
    s = session(tmp_path / "run", arms=ARMS[:3], prompts=list("abc"), max_searches=1)
    progress = run_virtual(s.run())
    assert [a.nfe_spent for a in progress.arms.values()] == [3 * 20, 3 * 60, 3 * 80]
    assert progress.engine.rewards_computed == 3 * 8 + 9  # each candidate once, and each winner
    assert not progress.engine._scores and not progress.engine._making


def test_prompts_stream_in_constant_memory(tmp_path):
    """2,000 prompts: what is alive does not grow with them, and finished rows are visible on the way."""
    n = 2000
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"prompt {i}" for i in range(n)))
    alive: dict[int, int] = {}
    s = session(
        tmp_path / "run",
        FakeBackend(fleet := FakeFleet(8, 4, 8)),
        prompts=None,
        prompts_file=str(file),
        fleet={"store_gb": 1e-4},
        output={"videos": False},
        arms=ARMS[:1],
    )
    ticks = itertools.count()  # a clock of its own: every twentieth row is written
    s.directory.searches._clock, s.directory.searches._due = lambda: next(ticks), 0
    add, visible = s.directory.searches.add, []

    def watch(search_id, rows):
        add(search_id, rows)
        done = s.progress.done + 1  # with this one
        if done % 200 == 0:
            for r in fleet.replicas:
                r.calls.clear()  # of which a fake keeps the latest 1000
            gc.collect()
            alive[done] = len(gc.get_objects())
            visible.append(pq.read_metadata(s.directory.searches.path).num_rows)

    s.directory.searches.add = watch
    run_virtual(s.run())
    assert pq.read_metadata(Path(tmp_path / "run" / "searches.parquet")).num_rows == n
    assert all(rows >= 0.8 * 200 * i for i, rows in enumerate(visible))
    assert alive[1800] < alive[600] + 300, alive  # one object a search would be 1,200
