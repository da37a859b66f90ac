"""Prompts of a benchmark: the block `prompts`, and files that are not the benchmark's."""

from mistakes import Mistake


def of_suite(block: str, line: str, *more: str, **files: str | bytes) -> Mistake:
    """A run of a suite, whose file is p.json or p.txt."""
    return Mistake([f"prompts={{{block}}}", *more], line, files={k.replace("_", "."): v for k, v in files.items()})


COLOURS = '[{"prompt_en": "a red kite", "dimension": ["color"]}]'
ANATOMY = '[{"prompt_en": "a dancer", "dimension": ["Human_Anatomy"]}]'
TABLE = [
    of_suite(
        "suite: vbnch2, path: p.json",
        "prompts.suite: 'vbnch2' is not allowed; it must be one of vbench, vbench2, ... (did you mean 'vbench2'?)",
    ),
    of_suite("suite: 3, path: p.json", "prompts.suite: 3 is not allowed; it must be one of vbench, vbench2, ..."),
    of_suite("path: p.json", "prompts.suite is missing..."),
    of_suite("suite: vbench", "prompts.path is missing: it must be of type str"),
    of_suite("suite: vbench, path: 3", "prompts.path: 3 is not allowed; it must be of type str"),
    of_suite("suite: vbench, path: p.json, sample: true", "prompts.sample: unknown key (did you mean 'samples'?); ..."),
    of_suite(
        "suite: vbench, path: p.json, samples: 5", "prompts.samples: 5 is not allowed; it must be of type bool, ..."
    ),
    of_suite(
        "suite: vbench, path: p.json",
        "prompts.path: 'p.json' is not allowed; it must be an existing file, or one of ...",
    ),
    of_suite(
        "suite: evalcrafter, path: .", "prompts.path: '.' is not allowed; it must be an existing file, or one of ..."
    ),
    of_suite(
        "suite: t2v-compbench, path: p.txt",
        "prompts.path: 'p.txt' is not allowed; it must be a folder with the files of t2v-compbench, ...",
        p_txt="a\n",
    ),
    of_suite(
        "suite: t2v-compbench, path: .",
        "prompts.path: '.' is not allowed; it must be a folder with the files of t2v-compbench, ...",
        p_txt="a\n",
    ),
    of_suite(
        "suite: vbench, path: p.json, dimensions: color",
        "prompts.dimensions: 'color' is not allowed; it must be a list, such as ['color']",
    ),
    of_suite(
        "suite: vbench, path: p.json, dimensions: [colour]",
        "prompts.dimensions: 'colour' is not allowed; it must be of vbench: ... (did you mean 'color'?)",
    ),
    of_suite(
        "suite: evalcrafter, path: p.txt, dimensions: [color]",
        "prompts.dimensions: ['color'] is not allowed; it must be left out with evalcrafter",
    ),
    of_suite(
        "suite: vbench, path: p.json, dimensions: [scene]",
        "prompts: {...} is not allowed; it must be with at least one prompt in it",
        p_json=COLOURS,
    ),
    of_suite(
        "suite: vbench, path: p.json, dimensions: []",
        "prompts: {...} is not allowed; it must be with at least one prompt in it",
        p_json=COLOURS,
    ),
    of_suite(
        "suite: vbench, path: p.json",
        "p.json entry 1: dimension: ['Human_Anatomy'] is not allowed; it must be a list of dimensions of vbench: ...",
        p_json=ANATOMY,
    ),
    of_suite(
        "suite: vbench2, path: p.json",
        "p.json entry 1: dimension: ['color'] is not allowed; it must be a list of dimensions of vbench2: ...",
        p_json=COLOURS,
    ),
    of_suite(
        "suite: vbench2, path: p.json",
        "p.json entry 1: dimension: ['Diversity', 'Material'] is not allowed; it must be one dimension of vbench2",
        p_json=ANATOMY.replace('"Human_Anatomy"', '"Diversity", "Material"'),
    ),
    *(
        of_suite(
            "suite: vbench, path: p.json",
            f"p.json entry 1: dimension: {shown} is not allowed; it must be a list of dimensions of vbench: ...",
            p_json=COLOURS.replace('["color"]', wrong),
        )
        for wrong, shown in (('"color"', "'color'"), ("[]", "[]"), ("[3]", "[3]"), ("null", "None"))
    ),
    of_suite(
        "suite: phygenbench, path: p.json",
        "p.json entry 1: ['prompt_en', 'dimension'] is not allowed; it must be an object with a text 'caption', as ...",
        p_json=COLOURS,
    ),
    of_suite(
        "suite: vbench, path: p.json",
        "p.json entry 1: 'a' is not allowed; it must be an object with a text 'prompt_en', as the entries of ...",
        p_json='["a"]',
    ),
    of_suite(
        "suite: phygenbench, path: p.json",
        "p.json entry 1: ['caption'] is not allowed; it must be an object with a text 'caption', as ...",
        p_json='[{"caption": " "}]',
    ),
    of_suite(
        "suite: evalcrafter, path: p.json",
        "p.json line 1: '[{...' is not allowed; it must be a prompt, as the lines of prompt700.txt are",
        p_json=COLOURS,
    ),
    of_suite("suite: vbench, path: p.json", "p.json is no JSON: Expecting value at column 2", p_json="[a"),
    of_suite(
        "suite: vbench, path: p.json",
        "p.json is no JSON: a number in it has more than 4300 digits",
        p_json="[1" + 5000 * "0" + "]",
    ),
    of_suite(
        "suite: vbench, path: p.json",
        "p.json entry 1: prompt_en: 'a red/kite' is not allowed; it must be a text without slashes of at most 249 ...",
        p_json=COLOURS.replace("red ", "red/"),
    ),
    of_suite("suite: vbench, path: p.json", "p.json: 'dict' is not allowed; it must be a list of ...", p_json="{}"),
    of_suite("suite: evalcrafter, path: p.txt", "p.txt line 2 is not UTF-8: ...", p_txt=b"a\n\xff\n"),
    of_suite(
        "suite: evalcrafter, path: p.txt",
        "prompts: {...} is not allowed; it must be with at least one prompt in it",
        p_txt="\n",
    ),
    of_suite(
        "suite: vbench, path: p.json",
        "prompts_column: 'text' is not allowed; it must be left out with a suite",
        "prompts_column=text",
        p_json=COLOURS,
    ),
    of_suite(
        "suite: vbench, path: p.json",
        "prompts: {...} is not allowed; it must be left out (prompts=null), as prompts_file is given",
        "prompts_file=p.json",
        p_json=COLOURS,
    ),
]
