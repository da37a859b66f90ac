"""Prompts of public benchmarks, in small files of each benchmark's own format."""

import json
from pathlib import Path

import pytest
from fakes import run

from raysearch.config import config as configuration
from raysearch.config import prompts, suites
from raysearch.config.schema import json_schema
from raysearch.errors import ConfigError
from raysearch.recipe.candidate import Prompt

VBENCH = [
    {"prompt_en": "a red kite", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}},
    {"prompt_en": "a still pond", "dimension": ["temporal_flickering"]},
    {"prompt_en": " a fox runs ", "dimension": ["subject_consistency", "dynamic_degree"]},
    {"prompt_en": "a red kite", "dimension": ["overall_consistency", "color"]},
]
VBENCH2 = [
    {"prompt_en": "Harbour, pan left.", "dimension": ["Camera_Motion"], "auxiliary_info": "pan_left"},
    {"prompt_en": "A dancer.", "dimension": ["Human_Anatomy"]},
    {"prompt_en": "A dancer.", "dimension": ["Diversity"]},
    {"prompt_en": "A dancer.", "dimension": ["Human_Clothes"]},
]
PHYGENBENCH = [
    {"caption": "Oil is poured on water. ", "physical_laws": "it floats", "main_category": "Force"},
    {"caption": "A coin is dropped.", "physical_laws": "it falls", "main_category": "Force"},
    {"caption": "A coin is dropped.", "physical_laws": None, "main_category": "Light"},
]


def written(folder: Path, name: str, value) -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if isinstance(value, bytes):
        path.write_bytes(value)
    else:
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8-sig")
    return str(path)


def read(suite: str, path: object, **more) -> list[prompts.Entry]:
    return prompts.read({"suite": suite, "path": str(path), **more}, None)


def texts(found: list[prompts.Entry]) -> list[str]:
    return [e.prompt.text for e in found]


def test_a_prompt_of_vbench_serves_all_dimensions_of_its_entries(tmp_path):
    path = written(tmp_path, "VBench_full_info.json", VBENCH)
    found = read("vbench", path)
    assert [e.prompt for e in found] == [Prompt("a red kite"), Prompt("a still pond"), Prompt("a fox runs")]
    assert [e.tags for e in found] == [
        {"tag_dimension": '["color", "overall_consistency"]'},
        {"tag_dimension": '["temporal_flickering"]'},
        {"tag_dimension": '["subject_consistency", "dynamic_degree"]'},
    ]
    assert [(e.n, e.seed, e.moved) for e in found] == [(None, None, 0)] * 3
    assert found[2].place == f"{path} entry 3"
    chosen = read("vbench", path, dimensions=["dynamic_degree", "color"])
    assert texts(chosen) == ["a red kite", "a fox runs"]
    assert [e.tags["tag_dimension"] for e in chosen] == ['["color"]', '["dynamic_degree"]']  # only what they serve
    assert [e.n for e in read("vbench", path, samples=True)] == [5, 25, 5]


def test_more_samples_are_for_the_dimension_that_asks_for_them(tmp_path):
    both = [{"prompt_en": "a pond", "dimension": ["temporal_flickering", "scene"]}]
    path = written(tmp_path, "v.json", both)
    assert [e.n for e in read("vbench", path, samples=True)] == [25]
    assert [e.n for e in read("vbench", path, samples=True, dimensions=["scene"])] == [5]
    assert [e.n for e in read("vbench", path, samples=True, dimensions=["temporal_flickering"])] == [25]


def test_a_prompt_of_several_dimensions_of_vbench2_is_searched_for_each_with_other_seeds(tmp_path):
    path = written(tmp_path, "VBench2_full_info.json", VBENCH2)
    found = read("vbench2", path, samples=True)
    assert texts(found) == ["Harbour, pan left.", *["A dancer."] * 3]
    assert [e.tags["tag_dimension"] for e in found] == ["Camera_Motion", "Human_Anatomy", "Diversity", "Human_Clothes"]
    assert [e.n for e in found] == [3, 3, 20, 3]
    assert [list(e.seeds([7]))[:3] for e in found] == [
        [7, 8, 9], [7, 8, 9], [100_007, 100_008, 100_009], [200_007, 200_008, 200_009]
    ]  # fmt: skip
    assert len({e.identity for e in found}) == 4
    # More seeds leave those of before as they are, and a prompt alone is where it would be without a suite.
    found = read("vbench2", path)
    assert [e.seeds([0, 1]) for e in found[1:3]] == [[0, 1], (100_000, 100_001)]
    assert found[1].identity == Prompt("A dancer.").identity
    assert read("vbench2", path, dimensions=["Diversity"])[0].moved == 0


def test_a_category_of_t2v_compbench_is_a_file_whose_lines_are_numbered_from_1(tmp_path):
    written(tmp_path, "1_consistent_attr.txt", b"\xef\xbb\xbfA blue car and a red bird.\r\n\r\n A tall hat.\r\n")
    written(tmp_path, "7_numeracy.txt", "four owls\n\n")
    written(tmp_path, "README.txt", "not a category\n")
    found = read("t2v-compbench", tmp_path)
    assert texts(found) == ["A blue car and a red bird.", "A tall hat.", "four owls"]
    assert [tuple(e.tags.items()) for e in found] == [
        (("tag_category", "consistent_attr"), ("tag_number", "1")),
        (("tag_category", "consistent_attr"), ("tag_number", "2")),
        (("tag_category", "numeracy"), ("tag_number", "1")),
    ]
    assert texts(read("t2v-compbench", tmp_path, dimensions=["numeracy"])) == ["four owls"]
    assert [e.n for e in read("t2v-compbench", tmp_path, samples=True)] == [1, 1, 1]


def test_lines_of_evalcrafter_are_numbered_from_0_and_may_come_twice(tmp_path):
    path = written(tmp_path, "prompt700.txt", "two swans\r\na horse\r\n\r\ntwo swans\r\n")
    found = read("evalcrafter", path)
    assert texts(found) == ["two swans", "a horse", "two swans"]
    assert [e.tags for e in found] == [{"tag_number": "0"}, {"tag_number": "1"}, {"tag_number": "2"}]
    assert [e.moved for e in found] == [0, 0, prompts.MOST]


def test_keys_of_phygenbench_are_tags(tmp_path):
    oil, coin, again = read("phygenbench", written(tmp_path, "prompts.json", PHYGENBENCH))
    assert oil.prompt == Prompt("Oil is poured on water.")
    assert oil.tags == {"tag_physical_laws": "it floats", "tag_main_category": "Force", "tag_number": "0"}
    assert again.tags == {"tag_physical_laws": None, "tag_main_category": "Light", "tag_number": "2"}
    assert (coin.moved, again.moved) == (0, prompts.MOST)


def test_other_keys_of_phygenbench_do_not_steer_the_run(tmp_path):
    own = {"seed": 7, "n": 3, "image": "/etc/passwd", "last_image": "x", "negative_prompt": "blur", "prompt": "a cat"}
    (e,) = read("phygenbench", written(tmp_path, "p.json", [PHYGENBENCH[1] | own | {"number": 4}]))
    assert e.prompt == Prompt("A coin is dropped.", tags=e.tags)
    assert (e.seed, e.n, e.negative_prompt) == (None, None, None)
    assert e.tags == {"tag_physical_laws": "it falls", "tag_main_category": "Force", "tag_number": "0"}


@pytest.mark.parametrize(("suite", "dimension", "longest"), [("vbench", "color", 249), ("vbench2", "Material", None)])
def test_a_prompt_that_its_suite_cannot_name_a_video_by_is_refused(tmp_path, suite, dimension, longest):
    def of(prompt: str) -> str:
        return written(tmp_path, "p.json", [{"prompt_en": prompt, "dimension": [dimension]}])

    for wrong in ("half/half", "a\0b", "x" * (longest + 1) if longest else "\u732b" * 84):
        with pytest.raises(ConfigError, match=rf"entry 1: prompt_en: .* a text without slashes.* by which {suite}"):
            read(suite, of(wrong))
    assert len(read(suite, of("x" * (longest or 5000)))) == 1
    if suite == "vbench2":
        assert len(read(suite, of("x" * 180 + "/"))) == 1  # names are cut


def test_a_run_of_a_suite_has_a_search_for_each_sample_and_its_tags_in_the_table(tmp_path):
    path = written(tmp_path, "VBench2_full_info.json", VBENCH2)
    block = {"suite": "vbench2", "path": path, "dimensions": ["Human_Anatomy", "Human_Clothes"], "samples": True}
    for apart, seeds in ((False, [0, 1, 2, 100_000, 100_001, 100_002]), (True, [0, 1, 2, 200_003, 200_004, 200_005])):
        rows, _ = run(tmp_path / f"run-{apart}", prompts=block, seeds=[0], seeds_apart=apart)
        assert [r["seed"] for r in rows] == seeds
        assert [r["tag_dimension"] for r in rows] == ["Human_Anatomy"] * 3 + ["Human_Clothes"] * 3
    assert len({r["winner"] for r in rows}) == 6


def test_a_block_is_given_in_a_file_and_over_a_list_on_the_command_line(tmp_path):
    path = written(tmp_path, "prompt700.txt", "two swans\n")
    file = tmp_path / "config.yaml"
    file.write_text("model: {path: x}\nprompts: [a, b]\n")
    c = configuration.load(file, ["prompts.suite=evalcrafter", f"prompts.path={path}"])
    assert c.prompts == {"suite": "evalcrafter", "path": path}
    assert texts(prompts.load(c)) == ["two swans"]
    assert "suite: evalcrafter" in configuration.resolved(c)


def test_editors_know_the_block():
    schema = json_schema({})
    _, block, _ = schema["$defs"]["Config"]["properties"]["prompts"]["anyOf"]
    assert block == {"$ref": "#/$defs/SuiteConfig"}
    known = schema["$defs"]["SuiteConfig"]
    assert known["properties"]["suite"]["enum"] == list(suites.READERS)
    assert (known["required"], known["additionalProperties"]) == (["suite", "path"], False)


def test_every_suite_with_dimensions_has_as_many_as_its_paper():
    assert {name: len(set(found)) for name, found in suites.DIMENSIONS.items()} == {
        "vbench": 16,
        "vbench2": 18,
        "t2v-compbench": 7,
    }
    assert all(set(more) < set(suites.DIMENSIONS[name]) for name, more in suites.MORE.items())


@pytest.mark.parametrize(("suite", "value"), [("vbench", VBENCH2), ("vbench2", VBENCH), ("phygenbench", VBENCH)])
def test_the_file_of_another_suite_is_refused(tmp_path, suite, value):
    with pytest.raises(ConfigError, match=rf"p\.json entry 1.* as the entries of {suite} are|of {suite}: "):
        read(suite, written(tmp_path, "p.json", value))
