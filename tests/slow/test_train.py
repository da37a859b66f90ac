"""`raysearch train`: groups of rollouts, pairs, and trainings that are stopped and go on."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import halting
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tiny
import torch
import yaml

from actors.cluster.placement import Node
from actors.rewards import latent_reward, pavrm
from actors.training import config as configs
from actors.training import latent_rewards, loop, pairs
from actors.training.pairs import accuracy, agreement
from raysearch import __main__ as command_line
from raysearch.errors import ConfigError

ROOT = Path(__file__).parents[2]
CHANNELS = 4
CAPTIONS = [f"caption {i}" for i in range(12)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.collected(tmp_path_factory.mktemp("data"), CAPTIONS, components=("VQ", "MQ", "TA", "LAW"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.save_pipeline(tmp_path_factory.mktemp("wan"))


@pytest.fixture
def rows(data):
    table = pq.read_table(data)
    names = ("prompt", "step", "sigma", "first", "similarity", "VQ", "TA", "LAW")
    latents = table["latent"].combine_chunks().to_numpy_ndarray().copy()
    return {k: np.array(table[k].to_pylist()) for k in names} | {"latent": latents}


def test_groups_are_of_one_caption_and_level(rows):
    found = pairs.grouped(rows, size=2, components=("VQ", "TA"), seed=0)
    assert found["latent"].shape == (12 * 2 * 2, 2, CHANNELS, 2, 4, 4)
    assert found["grades"].shape == (48, 2, 2) and found["similarity"].shape == (48, 2)
    each = zip(rows["latent"], rows["prompt"], rows["sigma"], rows["VQ"], strict=True)
    grade = {tuple(x.ravel()): rest for x, *rest in each}
    seen = set()
    for i in range(48):
        for j in range(2):
            key = tuple(found["latent"][i, j].ravel())
            assert grade[key] == [found["prompt"][i], found["sigma"][i], found["grades"][i, j, 0]]
            seen.add(key)
    assert len(seen) == 96, "every rollout is in one group"
    again = pairs.grouped(rows, size=2, components=("VQ", "TA"), seed=0)
    np.testing.assert_array_equal(found["latent"], again["latent"])
    other = pairs.grouped(rows, size=2, components=("VQ", "TA"), seed=1)
    assert (found["latent"] != other["latent"]).any()
    # One of four is left out.
    assert len(pairs.grouped(rows, size=3, components=("VQ",), seed=0)["sigma"]) == 24


def test_one_step_of_two_samplers_is_two_levels(rows):
    """Two of each caption's four rollouts have other levels at the same steps."""
    other = np.arange(96) // 2 % 4 >= 2
    rows["sigma"] = np.where(other, rows["sigma"] + 0.1, rows["sigma"])
    level = {x.tobytes(): s for x, s in zip(rows["latent"], rows["sigma"], strict=True)}
    found = pairs.grouped(rows, size=2, components=("VQ",), seed=0)
    assert len(found["sigma"]) == 48 and set(found["sigma"]) == {0.5, 0.6, 0.2, 0.2 + 0.1}
    for sigma, latents in zip(found["sigma"], found["latent"], strict=True):
        assert {level[x.tobytes()] for x in latents} == {sigma}


@pytest.mark.parametrize("column", ["VQ", "sigma", "similarity", "latent"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(rows, column, value):
    rows[column][7] = value
    with pytest.raises(ConfigError, match=f"dataset: '{column}' .* finite"):
        pairs.grouped(rows, size=2, components=("VQ",), seed=0)


def test_agreement_by_hand():
    grades = np.array([0.0, 0.05, 1.0, 0.5])
    scores = np.array([1.0, 2.0, 3.0, 0.0])
    # a: (0, 1) is a tie, (0, 2) and (1, 2) are right; b: alone
    assert agreement(scores, grades, ["a", "a", "a", "b"]) == {"a": (2, 2, 1), "b": (0, 0, 0)}
    assert agreement(-scores, grades, ["a", "a", "a", "b"])["a"] == (0, 2, 1)
    assert agreement(np.zeros(4), grades, ["a"] * 4) == {"a": (2.5, 5, 1)}  # equal scores: half of five
    assert accuracy([(2, 2, 1), (1, 2, 0)]) == 0.75
    assert np.isnan(accuracy([(0, 0, 3)]))


def write(folder, data, model, **values):
    base = {
        "reward": {"name": "pavrm", "model": str(model), "blocks": 1, "heads": 2},
        "dataset": str(data),
        "steps": 6,
        "batch": 8,
        "group": 4,
        "every": 3,
        "learning_rate": 1e-2,
        "max_sequence_length": 12,
        "run_dir": str(folder / "run"),
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(base | values))
    return folder / "c.yaml"


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("reward.name", {"reward": {"name": "pavlov"}}),
        ("reward.blocks", {"reward": {"name": "pavrm", "model": "MODEL", "blocks": 9}}),
        ("reward.blocs", {"reward": {"name": "pavrm", "model": "MODEL", "blocs": 1}}),
        ("reward.model", {"reward": {"name": "pavrm", "model": "nowhere"}}),
        ("reward.start", {"reward": {"name": "latent", "start": "nowhere"}}),
        ("dataset", {"dataset": "nowhere"}),
        ("group", {"group": 3}),
        ("batch", {"batch": 0}),
        ("batch: 4000 is not allowed; it must be at most", {"batch": 4000}),
        ("batch: 40 is not allowed; it must be at most", {"batch": 40, "workers": {"number": 2}}),
        ("loss", {"loss": {"preference": 0}}),
        ("loss.regression", {"loss": {"regression": -1}}),
        ("steps", {"steps": 0}),
        ("shuffle", {"shuffle": 0}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": 2**63}),
        ("warm_up", {"warm_up": -1}),
        ("weight_decay", {"weight_decay": -0.1}),
        ("max_sequence_length", {"max_sequence_length": 0}),
        ("at most 8 tokens (max_sequence_length): these are", {"max_sequence_length": 8}),
        ("dtype", {"dtype": "int8"}),
        ("workers.number", {"workers": {"number": 0}}),
        ("learning_rat", {"learning_rat": 1}),
        ("'sharp'", {"components": ["sharp"]}),
        ("components: 'prompt'", {"components": ["prompt"]}),
        ("components: 'latent'", {"components": ["VQ", "latent"]}),
        ("components: 'seed' is not allowed; it must be a grade, not one of prompt, seed", {"components": ["seed"]}),
        ("components: 'timestep'", {"components": ["VQ", "timestep"]}),
        ("no component called 'step', which is a column of its own", {"components": ["step"]}),
        ("components: ['VQ', 'VQ'] is not allowed; it must be at least one, each once", {"components": ["VQ", "VQ"]}),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(tmp_path, data, model, capsys, line, values):
    text = json.dumps(values).replace("MODEL", str(model))
    path = write(tmp_path, data, model, **json.loads(text))
    assert command_line.main(["train", str(path)]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_dataset_of_other_latents_is_refused(tmp_path, model, capsys):
    path = write(tmp_path, tiny.collected(tmp_path, CAPTIONS[:4], shape=(3, 2, 4, 4)), model)
    assert command_line.main(["train", str(path)]) == 2
    assert "(4, any, any, any)" in capsys.readouterr().err


def edited(column, array):
    def edit(shard, table):
        values = array(table)
        pq.write_table(table.set_column(table.schema.get_field_index(column), column, values), shard)

    return edit


def folder(shard, table):
    shard.unlink()
    shard.mkdir()


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("said", "edit"),
    [
        ("no Parquet", lambda shard, table: shard.write_bytes(b"nonsense")),
        ("no Parquet", lambda shard, table: shard.write_bytes(shard.read_bytes()[:-100])),
        ("no Parquet", folder),
        ("", lambda shard, table: pq.write_table(table.drop_columns(["VQ"]), shard)),
        ("", edited("VQ", lambda table: pa.nulls(len(table)))),
        ("", edited("VQ", lambda table: table["VQ"].cast(pa.string()))),
        ("", edited("similarity", lambda table: table["step"])),
        ("", edited("prompt", lambda table: pa.nulls(len(table)))),
        ("", edited("latent", lambda table: pa.chunked_array([c.storage for c in table["latent"].chunks]))),
    ],
)
def test_every_shard_is_looked_at(tmp_path, data, model, capsys, split, said, edit):
    """The second of two shards, or the first of the test split, is wrong."""
    shutil.copytree(data, tmp_path / "data")
    first = tmp_path / "data" / f"{split}-00000.parquet"
    wrong = first.with_name("train-00001.parquet") if split == "train" else first
    if wrong != first:
        shutil.copy(first, wrong)
    edit(wrong, pq.read_table(wrong))
    assert command_line.main(["train", str(write(tmp_path, tmp_path / "data", model))]) == 2
    error = capsys.readouterr().err
    assert str(wrong) in error and (said or "the same columns as train-00000.parquet") in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("said", "edit"),
    [
        ("'VQ' of floating numbers", edited("VQ", lambda table: pa.nulls(len(table)))),
        ("'VQ' of floating numbers", edited("VQ", lambda table: table["VQ"].cast(pa.string()))),
        ("'prompt' of texts", edited("prompt", lambda table: pa.nulls(len(table)))),
        ("'latent' of floating tensors", edited("latent", lambda table: table["VQ"])),
        ("rows", lambda shard, table: pq.write_table(table.slice(0, 0), shard)),
        ("finite numbers alone in its column 'VQ'", edited("VQ", lambda table: pc.divide(table["VQ"], 0.0))),
        ("column 'sigma'", edited("sigma", lambda table: pa.nulls(len(table), table.schema.field("sigma").type))),
    ],
)
def test_a_dataset_of_other_columns_is_refused(tmp_path, data, model, capsys, said, edit):
    (tmp_path / "data").mkdir()
    shard = tmp_path / "data" / "train-00000.parquet"
    edit(shard, pq.read_table(data / shard.name))
    assert command_line.main(["train", str(write(tmp_path, shard.parent, model))]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_reward_is_there_whole_or_not_at_all(tmp_path):
    def save(folder, ends=False):
        (folder / "config.json").write_text("{}")
        if not ends:
            raise KeyboardInterrupt
        (folder / "model.safetensors").touch()

    with pytest.raises(KeyboardInterrupt):
        latent_rewards.keep(latent_rewards.Trainee(None, list, save), tmp_path)
    assert not (tmp_path / "reward").exists()
    for _ in range(2):  # a worker that died after it does it again
        latent_rewards.keep(latent_rewards.Trainee(None, list, partial(save, ends=True)), tmp_path)
        assert {p.name for p in (tmp_path / "reward").iterdir()} == {"config.json", "model.safetensors"}
    assert [p.name for p in tmp_path.iterdir()] == ["reward"]


def there(monkeypatch):
    """A cluster of one CPU."""
    monkeypatch.setattr("actors.cluster.head.joined", lambda address, report: None)
    monkeypatch.setattr("actors.cluster.fleet.cluster_nodes", lambda: [Node({"CPU": 1.0})])


def test_what_changed_is_noticed_when_a_training_goes_on(tmp_path, data, model, capsys, monkeypatch):
    there(monkeypatch)
    monkeypatch.setattr(latent_rewards, "fit", lambda c: None)
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(model, tmp_path / "model")
    path = write(tmp_path, tmp_path / "data", tmp_path / "model")
    assert command_line.main(["train", str(path)]) == 0
    weights = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    shard = tmp_path / "data" / "train-00000.parquet"
    table = pq.read_table(shard)
    other = table.set_column(table.schema.get_field_index("VQ"), "VQ", pc.multiply(table["VQ"], 2.0))
    for what, change, back in (
        ("the dataset's shards", lambda: pq.write_table(other, shard), shard),
        ("the dataset's shards", lambda: shutil.copy(shard, shard.with_name("train-00001.parquet")), None),
        ("the reward's first weights", lambda: weights.write_bytes(weights.read_bytes()[:-1] + b"?"), weights),
    ):
        before = back.read_bytes() if back else b""
        change()
        assert command_line.main(["train", str(path)]) == 2
        error = capsys.readouterr().err
        assert f"{what} have changed since its run began" in error and error.count("\n") == 1
        if back:
            back.write_bytes(before)
        else:
            shard.with_name("train-00001.parquet").unlink()
    assert command_line.main(["train", str(path)]) == 0


def test_more_than_the_cluster_has_is_refused_and_claims_nothing(tmp_path, data, model, capsys, monkeypatch):
    there(monkeypatch)
    monkeypatch.setattr(latent_rewards, "fit", lambda c: None)
    path = write(tmp_path, data, model, workers={"number": 2})
    assert command_line.main(["train", str(path)]) == 2
    assert "workers.number: 2 is not allowed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert command_line.main(["train", str(path), "workers.number=1"]) == 0
    assert command_line.main(["train", str(path), "workers.wait=true", f"run_dir={tmp_path / 'waits'}"]) == 0


@pytest.mark.parametrize("kept", [False, True])
def test_a_mistake_that_a_worker_finds_claims_nothing_unless_something_was_kept(
    tmp_path, data, model, monkeypatch, kept
):
    there(monkeypatch)
    run = tmp_path / "run"

    def fit(c):
        (run / "checkpoints").mkdir()
        if kept:
            (run / "metrics.parquet").touch()
        raise ConfigError("batch: too large")

    monkeypatch.setattr(latent_rewards, "fit", fit)
    assert command_line.main(["train", str(write(tmp_path, data, model))]) == 2
    assert run.exists() == kept


def test_a_second_training_in_one_folder_is_refused(tmp_path, data, model, capsys, monkeypatch):
    """While the first one's `fit` lasts, and no longer."""
    path, codes = write(tmp_path, data, model), []
    there(monkeypatch)

    def fit(c):
        if not codes:
            command = [sys.executable, "-m", "raysearch", "train", str(path)]
            second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            codes.append(second.returncode)
            assert "no other run is writing to now" in second.stderr and second.stderr.count("\n") == 1
        else:
            codes.append(0)

    monkeypatch.setattr(latent_rewards, "fit", fit)
    assert command_line.main(["train", str(path)]) == 0
    assert command_line.main(["train", str(path)]) == 0
    assert codes == [2, 0]


def by_its_components(tmp_path, model, name, folder):
    """Searches by a trained reward of VQ and LAW, with other weights for each."""
    for weights in ({}, {"LAW": 0.0}, {"VQ": 0.0, "LAW": 2.0}):
        run = tmp_path / f"by-{len(list(tmp_path.glob('by-*')))}"
        values = {
            "model": {"path": str(model), "height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 12},
            "sampler": {"num_steps": 4},
            "rewards": {"search": {"name": name, "folder": str(folder), "weights": weights}},
            "policy": {"name": "best_of_n", "n": 3},
            "prompts": ["caption 1"],
            "fleet": {"backend": "local"},
            "run_dir": str(run),
        }
        (tmp_path / "search.yaml").write_text(yaml.safe_dump(values))
        assert command_line.main(["run", str(tmp_path / "search.yaml")]) == 0
        table = pq.read_table(run / "candidates.parquet")
        assert table.column_names[-2:] == ["LAW", "VQ"]
        rows = table.to_pylist()
        totals = [weights.get("VQ", 1.0) * r["VQ"] + weights.get("LAW", 1.0) * r["LAW"] for r in rows]
        assert [r["reward"] for r in rows] == pytest.approx(totals) and len(set(totals)) == 3
        (row,) = pq.read_table(run / "searches.parquet").to_pylist()
        assert row["winner"] == rows[int(np.argmax(totals))]["candidate"]


def test_a_latent_reward_learns_other_components_and_runs(tmp_path, data, model, rows):
    torch.manual_seed(0)
    sizes = {"vision_layers": 1, "vision_width": 16, "vision_heads": 2, "layers": 1, "width": 32, "mlp": 32, "heads": 2}
    words = ("caption", *map(str, range(12)))
    start = latent_reward.LatentRewardConfig(shape=(4, 2, 4, 4), vocabulary=words, **sizes)
    latent_reward.save(latent_reward.LatentRewardNet(start), tmp_path / "start")
    reward = {"name": "latent", "start": str(tmp_path / "start")}
    short = {"components": ["VQ", "LAW"], "steps": 2, "warm_up": 0, "ema": 0}
    c = configs.load(write(tmp_path, data, model, reward=reward, **short))
    latent_rewards.check_reward(c)
    t = latent_rewards.trainee(c)
    batch = pairs.grouped(rows, size=4, components=c.components, seed=0)
    np.testing.assert_array_equal(batch["grades"][..., 1], -0.5 * batch["grades"][..., 0])

    def loss(step=0, batch=batch, means=None):
        return latent_rewards.loss_of(c, t.net, t, batch, torch.device("cpu"), means or loop.Means())

    before, training = loss().item(), loop.Training(t.net, c)
    assert len(list(training.run(loss, [batch] * 2))) == 2
    training.finish()
    assert loss().item() < before
    latent_rewards.keep(t, tmp_path)
    by_its_components(tmp_path, model, "latent", tmp_path / "reward")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, data, model, capsys):
    """One in one go; and one that is killed in its second epoch of three steps, a step after its checkpoint, and gone
    on with. What is trained is a reward of the dataset's components that the config names."""
    short = {"steps": 4, "every": 2, "batch": 20, "workers": {"num_cpus": 0.5}, "components": ["VQ", "LAW"]}
    paths = {}
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
        paths[name] = write(tmp_path / name, data, model, **short)
    with halting.cluster() as address:
        with halting.hanging("train", paths["halves"], halt=3, address=address) as driver:
            assert command_line.main(["train", str(paths["whole"])]) == 0
            halting.kill_after_checkpoint(driver, tmp_path / "halves" / "run")
        assert not (tmp_path / "halves" / "run" / "reward").exists()
        assert halting.run("train", paths["halves"], halt=1, hangs=False) == 0  # it would fail if it began anew
        capsys.readouterr()
        assert command_line.main(["train", str(paths["halves"])]) == 0
        assert "already" in capsys.readouterr().out
    one, two = (pavrm.load(tmp_path / k / "run" / "reward").state_dict() for k in ("whole", "halves"))
    for k, v in one.items():
        np.testing.assert_array_equal(v, two[k], err_msg=k)
    rows = pq.read_table(tmp_path / "halves" / "run" / "metrics.parquet").to_pylist()
    assert rows == pq.read_table(tmp_path / "whole" / "run" / "metrics.parquet").to_pylist()
    assert {r["step"] for r in rows} == {2, 4}
    assert {"loss", "preference", "accuracy 0.50", "accuracy 0.20"} <= {r["metric"] for r in rows}
    assert (tmp_path / "whole" / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    by_its_components(tmp_path, model, "pavrm", tmp_path / "whole" / "run" / "reward")
