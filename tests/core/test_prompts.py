"""Prompts as they are written: every format of a file, and what a row says for its prompt alone."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import config, run, same, session
from fsspec.implementations.memory import MemoryFileSystem

from raysearch.config import config as configuration
from raysearch.config import prompts
from raysearch.errors import ConfigError
from raysearch.recipe.candidate import Prompt
from raysearch.session.plan import content_of, searches
from raysearch.testing import FakeBackend, fake_sampler

ROWS = [
    {"prompt": "a cat, asleep", "seed": 7, "n": 2, "negative_prompt": "ugly", "scene": "indoors", "score": 0.5},
    {"prompt": 'a "dog"', "seed": None, "n": None, "negative_prompt": None, "scene": None, "score": 2.0},
]


def separated(delimiter: str):
    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it
            table = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
            table.writeheader()
            table.writerows(ROWS)

    return write


WRITERS = {
    "p.csv": separated(","),
    "P.CSV": separated(","),
    "p.tsv": separated("\t"),
    "p.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "p.jsonl": lambda path: path.write_text("\n\n".join(map(json.dumps, ROWS)) + "\n"),
    "p.ndjson": lambda path: path.write_text("\n".join(map(json.dumps, ROWS))),
    "p.Parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
}


def read(path: Path, column: str | None = None) -> list[prompts.Entry]:
    return prompts.read(None, str(path), column)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_holds_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name)
    cat, dog = read(tmp_path / name)
    assert (cat.prompt, cat.negative_prompt, cat.seed, cat.n) == (Prompt("a cat, asleep"), "ugly", 7, 2)
    assert cat.tags == {"tag_negative_prompt": "ugly", "tag_scene": "indoors", "tag_score": "0.5"}
    assert (dog.prompt, dog.negative_prompt, dog.seed, dog.n) == (Prompt('a "dog"'), None, None, None)
    assert dog.tags == {"tag_negative_prompt": None, "tag_scene": None, "tag_score": "2.0"}
    assert dog.identity == dog.prompt.identity != cat.identity != cat.prompt.identity


def test_lines_of_text_and_texts_in_json_are_prompts(tmp_path):
    (tmp_path / "p.TXT").write_bytes("\ufeff\n a cat, asleep \r\n\n{a: dog}\n".encode())
    (tmp_path / "p.json").write_text('["a cat", ["first", "then"]]')
    assert [e.prompt for e in read(tmp_path / "p.TXT")] == [Prompt("a cat, asleep"), Prompt("{a: dog}")]
    assert [e.prompt for e in read(tmp_path / "p.json")] == [Prompt("a cat"), Prompt("first", later=("then",))]


def test_a_cell_may_span_lines_and_places_say_where_a_row_begins(tmp_path):
    (tmp_path / "p.csv").write_text('prompt,seed\n"a cat\nasleep",1\n\na dog,2\n')
    cat, dog = read(tmp_path / "p.csv")
    assert (cat.prompt.text, cat.place) == ("a cat\nasleep", f"{tmp_path}/p.csv line 2")
    assert (dog.prompt.text, dog.place) == ("a dog", f"{tmp_path}/p.csv line 5")


def test_the_column_of_prompts_may_have_another_name(tmp_path):
    (tmp_path / "p.csv").write_text(",caption,prompt\n0,a cat,short\n")  # pandas writes its index without a name
    (entry,) = read(tmp_path / "p.csv", "caption")
    assert (entry.prompt.text, entry.tags) == ("a cat", {"tag_prompt": "short"})


def test_numbers_are_those_that_tables_hold(tmp_path):
    pq.write_table(pa.table({"prompt": ["a", "b"], "seed": [3.0, None], "n": ["2", " "]}), tmp_path / "p.parquet")
    assert [(e.seed, e.n) for e in read(tmp_path / "p.parquet")] == [(3, 2), (None, None)]


class Hub(MemoryFileSystem):
    """Files in memory, in place of the hub's."""

    protocol = "hf"


@pytest.fixture
def hub():
    fsspec.register_implementation("hf", Hub, clobber=True)
    yield Hub()
    fsspec.register_implementation("hf", "huggingface_hub.HfFileSystem", clobber=True)


def test_a_file_of_the_hub_is_read_through_its_file_system(hub):
    hub.pipe_file("hf://datasets/org/name/p.csv", b"prompt,scene\na cat,indoors\n")
    (entry,) = prompts.read(None, "hf://datasets/org/name/p.csv")
    assert (entry.prompt.text, entry.place) == ("a cat", "hf://datasets/org/name/p.csv line 2")
    with pytest.raises(ConfigError, match=r"none\.csv' cannot be read from the model hub: FileNotFoundError"):
        prompts.read(None, "hf://datasets/org/name/none.csv")
    hub.pipe_file("hf://datasets/org/name/p.csv", b"prompt,image\na cat,first.png\n")
    with pytest.raises(ConfigError, match=r"p\.csv line 2: image: 'first\.png' is not allowed; it must be left out"):
        prompts.read(None, "hf://datasets/org/name/p.csv")


# -- runs ------------------------------------------------------------------------------------------------------------


def of_file(path: Path, text: str, **values):
    """The values of a config whose prompts are in a file."""
    path.write_text(text)
    return {"prompts": None, "prompts_file": str(path), **values}


def ids(*rows: str, seeds=(0,), apart: bool = False, path: Path) -> list[str]:
    path.write_text("\n".join(rows))
    c = config(prompts=None, prompts_file=str(path), seeds=list(seeds), seeds_apart=apart)
    plan = FakeBackend().prepare(c, configuration.arms(c))
    return [s.id.rpartition("-")[0] for s in searches(plan, prompts.load(c), c.seeds, apart=apart)]


def test_a_row_has_its_own_seeds(tmp_path):
    rows = ("prompt,seed,n", "a,,", "b,5,", "c,5,2", "d,,1", "e,,4")
    assert ids(*rows, seeds=(2, 0), path=tmp_path / "p.csv") == [
        "000000-s2", "000000-s0", "000001-s5", "000002-s5", "000002-s6", "000003-s2",
        "000004-s2", "000004-s0", "000004-s3", "000004-s4",
    ]  # fmt: skip


def test_seeds_apart_are_apart_for_rows_of_different_n(tmp_path):
    found = ids("prompt,n", "a,1", "b,3", "c,", apart=True, path=tmp_path / "p.csv")
    assert found == ["000000-s0", "000001-s3", "000001-s4", "000001-s5", "000002-s6"]


def test_a_rows_negative_prompt_is_that_of_its_samplers(tmp_path):
    policy = {"name": "draft_commit", "draft_steps": 4, "explore": {"name": "best_of_n", "n": 4}}
    plain, _ = run(tmp_path / "plain", prompts=["a"], policy=policy)
    values = of_file(tmp_path / "p.csv", "prompt,negative_prompt\na,\na,ugly\n", policy=policy)
    rows, _ = run(tmp_path / "run", **values)
    assert [r["tag_negative_prompt"] for r in rows] == [None, "ugly"]
    assert same(rows[:1]) == same(plain)
    assert rows[1]["winner"] != rows[0]["winner"] and rows[1]["reward_holdout"] != rows[0]["reward_holdout"]
    c = config(**values)
    _, ugly = searches(FakeBackend().prepare(c, configuration.arms(c)), prompts.load(c), c.seeds)
    for sampler, steps in ((ugly.plan.sampler, 10), (ugly.plan.at_steps(4), 4)):
        assert sampler == replace(fake_sampler(steps), negative_prompt="ugly")


def test_other_columns_are_tags_in_the_table_of_searches(tmp_path):
    text = "prompt,scene,status\na,indoors,new\nb,,old\n"
    values = of_file(tmp_path / "p.csv", text, seeds=[0, 1])
    rows, _ = run(tmp_path / "run", **values)
    assert [(r["prompt"], r["seed"], r["tag_scene"], r["tag_status"]) for r in rows] == [
        ("a", 0, "indoors", "new"), ("a", 1, "indoors", "new"), ("b", 0, None, "old"), ("b", 1, None, "old")
    ]  # fmt: skip
    (tmp_path / "run" / "searches.parquet").unlink()
    (tmp_path / "p.csv").write_text("prompt,scene\na,outdoors\nb,\n")  # tags alone may change
    again, _ = run(tmp_path / "run", **values, resume="require")
    assert [r["tag_scene"] for r in again] == ["indoors", "indoors", None, None]


def test_the_same_prompt_may_come_again_with_another_seed(tmp_path):
    values = of_file(tmp_path / "p.csv", "prompt,seed\na,1\na,2\n")
    rows, progress = run(tmp_path / "run", **values)
    assert [(r["search_id"], r["seed"]) for r in rows] == [("000000-s1-single", 1), ("000001-s2-single", 2)]
    assert progress.total == 2


def test_what_rows_say_is_part_of_a_runs_content(tmp_path):
    """Of prompts alone it is what it was."""
    c = config()
    plan = FakeBackend().prepare(c, configuration.arms(c))
    assert content_of(plan, prompts.load(c)) == content_of(plan, [Prompt("a"), Prompt("b")])
    values = of_file(tmp_path / "p.csv", "prompt,negative_prompt\na,ugly\n")
    run(tmp_path / "run", **values)
    of_file(tmp_path / "p.csv", "prompt,negative_prompt\na,dull\n")
    with pytest.raises(ConfigError, match="prompts have changed"):
        session(tmp_path / "run", **values, resume="require")
