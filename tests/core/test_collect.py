"""`collect`: the same searches, and the latents on the winners' ways in shards."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raysearch import files
from raysearch.config import config as configuration
from raysearch.errors import ConfigError
from raysearch.session import dataset
from raysearch.session.session import Session
from raysearch.testing import FakeBackend, FakeFleet, run_virtual, virtual_now

PROMPTS = [f"caption {i}" for i in range(20)]


def config(**values):
    base = {
        "model": {"path": "fake"},
        "prompts": PROMPTS,
        "seeds": [0, 2],
        "sampler": {"num_steps": 10, "guidance_scale": 1.0},
        "rewards": {"final": {"name": "verifier"}},
        "collect": {"levels": [0.9, 0.5], "train": 0.7},
        "resume": "auto",
    }
    return configuration.build(base | values)


def run(c, path, **fleet):
    fleet = FakeFleet(denoisers=2, **fleet)
    progress = run_virtual(Session(c, FakeBackend(fleet), run_dir=path, clock=virtual_now).run())
    return progress, fleet


def test_dataset_holds_every_rollout_at_every_level(tmp_path):
    run(config(), tmp_path / "r")
    rows = dataset.write(tmp_path / "r", train=0.7, complete=True, shard_bytes=1000)
    table = pq.read_table(tmp_path / "r" / "dataset")
    assert rows["train"] + rows["test"] == len(table) == 20 * 2 * 2
    assert len(list((tmp_path / "r" / "dataset").glob("train-*.parquet"))) > 1
    assert not (tmp_path / "r" / "rollouts").exists()
    latents = table["latent"].combine_chunks().to_numpy_ndarray()
    assert latents.shape == (80, 1, 1, 1, 2)
    for row, latent in zip(table.drop_columns(["latent"]).to_pylist(), latents, strict=True):
        assert {0.9: 1, 0.5: 5}[round(row["sigma"], 3)] == row["step"]
        assert latent.ravel()[1] == 1 + row["step"]  # the fake's picture of itself
        assert row["timestep"] == 1000 * row["sigma"] and not row["first"]
        i = PROMPTS.index(row["prompt"])
        assert row["seed"] in (3 * i, 3 * i + 2) and row["search_id"] == f"{i:06d}-s{row['seed']}-single"
        end, here = np.array([row["quality"], 11]), latent.ravel().astype(float)
        cosine = here @ end / np.linalg.norm(here) / np.linalg.norm(end)
        assert row["similarity"] == pytest.approx(0.5 * (1 + cosine), abs=1e-3)


def test_no_caption_is_on_both_sides_and_each_is_whole_in_one_shard(tmp_path):
    run(config(), tmp_path / "r")
    dataset.write(tmp_path / "r", train=0.7, complete=True, shard_bytes=1000)
    where = {}
    sides = {}
    for shard in (tmp_path / "r" / "dataset").iterdir():
        file = pq.ParquetFile(shard)
        for i in range(file.num_row_groups):
            group = file.read_row_group(i, columns=["prompt", "split"])
            (prompt,), (split,) = set(group["prompt"].to_pylist()), set(group["split"].to_pylist())
            assert prompt not in where, "a caption in two row groups"
            assert group.num_rows == 4 and shard.name.startswith(split)
            where[prompt], sides[prompt] = shard, split
    assert set(sides) == set(PROMPTS)
    assert set(sides.values()) == {"train", "test"}
    more = [*PROMPTS, "another caption"]
    assert {p: dataset.split_of(p, 0.7) for p in more} == sides | {"another caption": dataset.split_of(more[-1], 0.7)}


def test_interrupted_collection_goes_on_and_ends_with_the_same_rows(tmp_path):
    run(config(), tmp_path / "whole")
    dataset.write(tmp_path / "whole", train=0.7, complete=True)
    folder = tmp_path / "halves"

    async def killed():
        import asyncio

        session = Session(config(), FakeBackend(FakeFleet(denoisers=2)), run_dir=folder, clock=virtual_now)
        async with asyncio.timeout(60):
            await session.run()

    with pytest.raises(TimeoutError):
        run_virtual(killed())
    first, fleet = run(config(), folder)
    assert 0 < first.kept < 40
    rows = dataset.write(folder, train=0.7, complete=False)
    assert dataset.write(folder, train=0.7, complete=True) == rows
    table = pq.read_table(tmp_path / "whole" / "dataset")
    assert pq.read_table(folder / "dataset").equals(table)
    again, fleet = run(config(), folder)  # nothing is left to do, and what there is stays
    assert again.kept == 40 and not any(r.calls for r in fleet.replicas)
    assert dataset.write(folder, train=0.7, complete=True) == rows
    assert pq.read_table(folder / "dataset").equals(table)


@pytest.mark.parametrize("removal", [1, 2, 4])  # of what is half made, of the earlier dataset, of the rollouts
def test_a_dataset_that_was_killed_while_files_go_is_made_by_the_next_call(tmp_path, monkeypatch, removal):
    run(config(), tmp_path)
    rows = dataset.write(tmp_path, train=0.7, complete=False)
    table = pq.read_table(tmp_path / "dataset")
    (tmp_path / "dataset.partial").mkdir()
    (tmp_path / "dataset.partial" / "test-00000.parquet").touch()
    calls = 0

    def killed(folder, **_):
        nonlocal calls
        calls += 1
        if calls == removal:
            next(folder.iterdir()).unlink()
            raise KeyboardInterrupt
        rmtree(folder, ignore_errors=True)

    rmtree = files.shutil.rmtree
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            dataset.write(tmp_path, train=0.7, complete=True)
    for _ in range(2):
        assert dataset.write(tmp_path, train=0.7, complete=True) == rows
        assert pq.read_table(tmp_path / "dataset").equals(table)
        assert not {"rollouts", "rollouts.partial", "dataset.partial"} & {p.name for p in tmp_path.iterdir()}


def test_winners_without_latents_are_left_out_and_counted(tmp_path):
    """Mutants of step 6 have passed no level on their own."""
    c = config(policy={"name": "evolution", "schedule": [6], "population": [3, 3], "elite": 1})
    progress, _ = run(c, tmp_path)
    assert progress.failed == 0
    origins = pq.read_table(tmp_path / "searches.parquet")["origin"].to_pylist()
    mutants = sum('"kind":"noise"' not in o.replace(" ", "") for o in origins)
    assert 0 < mutants < 40
    for _ in range(2):
        said = dataset.collected(c, tmp_path, complete=True)
        assert len(pq.read_table(tmp_path / "dataset")) == 2 * (40 - mutants)
        assert f"; {mutants} winners are left out" in said and "\n" not in said


def test_a_collection_that_kept_nothing_is_one_error(tmp_path):
    paths = {"name": "paths", "n": 1, "m": 2, "start": 5, "forward": 1, "backward": 3}
    c = config(policy=paths)
    run(c, tmp_path)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"^collect\.levels: \[0\.9, 0\.5\] .*: none did$"):
            dataset.collected(c, tmp_path, complete=True)


def test_a_grade_that_is_missing_leaves_its_column_what_it_is(tmp_path):
    run(config(), tmp_path)
    path = tmp_path / "searches.parquet"
    searches = pq.read_table(path)
    grades = pa.array([None, *searches["final_quality"].to_pylist()[1:]], pa.float64())
    pq.write_table(searches.set_column(searches.schema.get_field_index("final_quality"), "final_quality", grades), path)
    dataset.write(tmp_path, train=0.7, complete=True)
    found = pq.read_table(tmp_path / "dataset")["quality"]
    assert found.type == pa.float64() and found.null_count == 2


def test_any_policy_may_choose_the_rollouts(tmp_path):
    progress, _ = run(config(policy={"name": "best_of_n", "n": 3}), tmp_path / "r")
    dataset.write(tmp_path / "r", train=0.7, complete=True)
    best = pq.read_table(tmp_path / "r" / "dataset")["quality"].to_numpy().mean()
    assert best > 0.6  # of single rollouts it is 0.5
    assert progress.failed == 0


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("collect.levels", {"collect": {"levels": []}}),
        ("collect.levels", {"collect": {"levels": [0.5, 1.5]}}),
        ("collect.levels", {"collect": {"levels": [0.5, 0.5]}}),
        ("collect.train", {"collect": {"train": 1.0}}),
        ("collect.tran", {"collect": {"tran": 0.5}}),
        ("rewards.final", {"rewards": {}}),
        (
            r"rewards.final: {'name': 'pavrm'} .*: b's is not a's",
            {"arms": [{"name": "a"}, {"name": "b", "rewards": {"final": {"name": "pavrm"}}}]},
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, line, values):
    base = {"prompts": PROMPTS, "rewards": {"final": {"name": "verifier"}}, "model": {"path": "x"}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(base | values))
    with pytest.raises(ConfigError, match=line):
        dataset.load(tmp_path / "c.yaml")


def test_levels_nearest_to_one_step_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"collect\.levels"):
        run(config(collect={"levels": [0.5, 0.49]}), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_plain_run_takes_no_collect_block(tmp_path):
    (tmp_path / "c.yaml").write_text("prompts: [a]\ncollect: {train: 0.5}\n")
    with pytest.raises(ConfigError, match="raysearch collect"):
        configuration.load(Path(tmp_path / "c.yaml"))
    assert [dataset.stops([1.0, 0.8, 0.5, 0.0], [0.5, 0.85])] == [[1, 2]]
