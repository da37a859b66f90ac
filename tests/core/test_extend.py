"""Seeds and prompts that are added to a run: what it has is kept, and it ends as if all had been asked for at once."""

import pyarrow.parquet as pq
import pytest
from fakes import ARMS, answers, cut, run, same, session
from omegaconf import OmegaConf

from raysearch.errors import ConfigError
from raysearch.recipe.digests import digest, digests
from raysearch.session import journal
from raysearch.testing import FakeFleet

SMALL = {"arms": ARMS[1:3], "prompts": ["a", "b"], "seeds": [0]}
LARGE = SMALL | {"prompts": ["a", "b", "c"], "seeds": [2, 0]}


def test_it_ends_as_if_all_had_been_asked_for_at_once(tmp_path):
    expected, _ = run(tmp_path / "whole", **LARGE)
    candidates = pq.read_table(tmp_path / "whole" / "candidates.parquet")
    kept, _ = run(tmp_path / "run", **SMALL)
    rows, progress = run(tmp_path / "run", FakeFleet(2, 2), **LARGE, resume="extend")
    assert same(rows) == same(expected)
    assert pq.read_table(tmp_path / "run" / "candidates.parquet").equals(candidates)
    assert (progress.kept, progress.total) == (4, 12)
    assert [r for r in rows if r["search_id"] in {k["search_id"] for k in kept}] == kept
    again, progress = run(tmp_path / "run", **LARGE, resume="require")
    assert again == rows and progress.kept == progress.total
    with pytest.raises(
        ConfigError, match=r"this run has prompts=\['a', 'b', 'c'\], and the config prompts=\['a', 'b'\]; resume=extend"
    ):
        session(tmp_path / "run", **SMALL, resume="require")


def test_one_that_was_killed_is_extended_too(tmp_path):
    expected, _ = run(tmp_path / "whole", **LARGE)
    run(tmp_path / "small", **SMALL)
    records = len(list(journal.read(tmp_path / "small" / "journal")))
    for k in range(0, records + 1, 3):
        path = cut(tmp_path / "small", tmp_path / str(k), k)
        rows, _ = run(path, **LARGE, resume="extend")
        assert same(rows) == same(expected)
        assert sorted(answers(path)) == sorted(answers(tmp_path / "whole"))


def test_what_is_written_first_may_be_all_that_is_written(tmp_path):
    """A driver that is killed between content.json and config.yaml leaves a run that can be extended."""
    expected, _ = run(tmp_path / "whole", **LARGE)
    run(tmp_path / "run", **SMALL)
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    session(tmp_path / "run", **LARGE, resume="extend").journal.close()
    (tmp_path / "run" / "config.yaml").write_bytes(before)
    rows, _ = run(tmp_path / "run", **LARGE, resume="extend")
    assert same(rows) == same(expected)


def test_lines_may_be_added_to_a_file_of_prompts(tmp_path):
    file = tmp_path / "p.csv"
    values = {"prompts": None, "prompts_file": str(file), "arms": ARMS[:1], "seeds_apart": True}
    file.write_text("prompt,n\na,2\nb,\n")
    run(tmp_path / "run", **values)
    file.write_text("prompt,n\na,2\nb,\nc,\n")
    with pytest.raises(ConfigError, match="prompts have changed since its run began"):
        session(tmp_path / "run", **values, resume="require")
    rows, progress = run(tmp_path / "run", **values, resume="extend")
    expected, _ = run(tmp_path / "whole", **values)
    assert (same(rows), progress.kept) == (same(expected), 3)


def test_the_config_keeps_what_else_the_run_began_with(tmp_path):
    """Candidates' identities name its numerics, and a run may be extended on another fleet."""
    run(tmp_path / "run", **SMALL, fleet={"denoisers": {"slots": 3}}, max_searches=1)
    run(tmp_path / "run", **LARGE, fleet={"denoisers": {"slots": 1}}, resume="extend")
    found = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert (found.fleet.denoisers.slots, found.max_searches, found.resume) == (3, 1, "never")
    assert (found.seeds, found.prompts) == (LARGE["seeds"], LARGE["prompts"])


def test_max_searches_may_change(tmp_path):
    expected, _ = run(tmp_path / "whole", **SMALL)
    path = cut(tmp_path / "whole", tmp_path / "run", 3)
    rows, _ = run(path, **SMALL, max_searches=1, resume="require")
    assert same(rows) == same(expected)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"prompts": ["b", "a"]},
            r"prompts: 'b, \.\.\.' is not allowed; it must be those of the run in '.*' in the same",
        ),
        ({"prompts": ["a"]}, r"prompts: 'a, \.\.\.' is not allowed; it must be those of the run"),
        ({"prompts": ["a", "c", "b"]}, r"prompts: 'a, \.\.\.' is not allowed; it must be those of the run"),
        (
            {"seeds": [1, 2]},
            r"seeds: \[1, 2\] is not allowed; it must be such that the run keeps its searches, of seed 0",
        ),
        ({"arms": ARMS[:1]}, r"run_dir: .* a run of this config: this run has .*arms.0.*, and the config .*"),
        ({"sampler": {"num_steps": 8}}, r"this run has sampler\.num_steps=10, and the config sampler\.num_steps=8$"),
    ],
)
def test_what_would_lose_a_search_is_refused(tmp_path, values, line):
    run(tmp_path / "run", **SMALL)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=line):
        session(tmp_path / "run", **SMALL | values, resume="extend")
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_seeds_apart_move_with_the_largest_one(tmp_path):
    values = SMALL | {"seeds_apart": True}
    run(tmp_path / "run", **values)
    with pytest.raises(ConfigError, match=r"seeds: \[0, 1\] is not allowed; .* of seed 1 too; with seeds_apart the la"):
        session(tmp_path / "run", **values | {"seeds": [0, 1]}, resume="extend")
    rows, _ = run(tmp_path / "run", **values | {"prompts": ["a", "b", "c"]}, resume="extend")
    assert [r["seed"] for r in rows] == [0, 0, 1, 1, 2, 2]


def test_there_must_be_a_run(tmp_path):
    with pytest.raises(ConfigError, match=r"it must be a folder that holds a run of this config \(resume=extend\)"):
        session(tmp_path / "run", **SMALL, resume="extend")
    assert not (tmp_path / "run").exists()


def test_digests_of_beginnings_are_the_digests_of_these():
    parts = ["a", b"b", 3]
    assert list(digests(parts)) == [digest(*parts[:n]) for n in range(4)]
