"""Prompts, in the config and in files."""

import json

from mistakes import Mistake

QUOTES = "it must be a list with each prompt in quotes, as commas divide it: prompts=\"['a, b', 'c']\""
SUFFIXES = "a file that ends in .txt, .csv, .tsv, .json, .jsonl, .ndjson, .parquet"
TEXT = "a text that is not empty, or a list of them"


def of_file(name: str, content: str | bytes, line: str, *more: str) -> Mistake:
    """A run of the prompts in a file."""
    return Mistake(["prompts=null", f"prompts_file={name}", *more], line, files={name: content})


def entry(text: str, line: str) -> Mistake:
    """A prompt in the config."""
    return Mistake([f"prompts=[{text}]"], line)


TABLE = [
    # in the config
    Mistake(["prompts=a cat"], "prompts: 'a cat' is not allowed; it must be a list, such as ['a cat']"),
    Mistake(
        ["prompts=a cat, asleep"],
        "prompts: 'a cat, asleep' is not allowed; it must be a list, such as ['a cat, asleep']",
    ),
    Mistake("prompts=5", "prompts: 5 is not allowed; it must be a list, such as [5]"),
    Mistake(["prompts={a: b}"], "prompts.a: unknown key; allowed here: suite, path, dimensions, samples"),
    Mistake("prompts=[]", "prompts: [] is not allowed; it must be with at least one prompt in it"),
    Mistake("prompts=null", "prompts: None is not allowed; it must be given, unless prompts_file is"),
    Mistake("prompts=[x", "prompts: '[x' is no YAML: ..."),
    entry("a cat, asleep", f"prompts: '[a cat, asleep]' is not allowed; {QUOTES}"),
    entry("x, a cat", f"prompts: '[x, a cat]' is not allowed; {QUOTES}"),
    entry(
        "a cat: asleep",
        "prompts[0]: ['a cat'] is not allowed; it must be a text, or columns of which one is 'prompt' ...",
    ),
    entry("3", "prompts[0]: 3 is not allowed; it must be a text, or a mapping with 'prompt'"),
    entry("null", "prompts[0]: None is not allowed; it must be a text, or a mapping with 'prompt'"),
    entry("'  '", f"prompts[0].prompt: None is not allowed; it must be {TEXT}"),
    entry("[]", f"prompts[0].prompt: [] is not allowed; it must be {TEXT}"),
    entry("[a, '']", f"prompts[0].prompt: '' is not allowed; it must be {TEXT}"),
    entry("{prompt: 3}", f"prompts[0].prompt: 3 is not allowed; it must be {TEXT}"),
    entry("{prompt: {a: b}}", f"prompts[0].prompt: {{'a': 'b'}} is not allowed; it must be {TEXT}"),
    entry(
        "{}",
        "prompts[0]: [] is not allowed; it must be a text, or columns of which one is 'prompt' (prompts_column ...",
    ),
    entry("{image: a.png}", "prompts[0]: ['image'] is not allowed; it must be a text, or columns of which one is ..."),
    entry("{prompt: a, seeds: 3}", "prompts[0].seeds: 'seeds' is not allowed; it must be ... (did you mean 'seed'?)"),
    entry("{prompt: a, imge: x}", "prompts[0].imge: 'imge' is not allowed; it must be ... (did you mean 'image'?)"),
    entry("{prompt: a, seed: x}", "prompts[0].seed: 'x' is not allowed; it must be a whole number in 0..2^63-1"),
    entry("{prompt: a, seed: -1}", "prompts[0].seed: -1 is not allowed; it must be a whole number in 0..2^63-1"),
    entry("{prompt: a, seed: 1.5}", "prompts[0].seed: 1.5 is not allowed; it must be a whole number in 0..2^63-1"),
    entry("{prompt: a, seed: true}", "prompts[0].seed: True is not allowed; it must be a whole number in 0..2^63-1"),
    entry(
        f"{{prompt: a, seed: {2**63}}}", f"prompts[0].seed: {2**63} is not allowed; it must be a whole number in ..."
    ),
    entry(
        f"{{prompt: a, seed: {2**63 - 1}, n: 2}}", f"seeds: {2**63} is not allowed; it must be below 2^63, also for ..."
    ),
    entry("{prompt: a, n: 0}", "prompts[0].n: 0 is not allowed; it must be a whole number in 1..100000"),
    entry("{prompt: a, n: 100001}", "prompts[0].n: 100001 is not allowed; it must be a whole number in 1..100000"),
    entry("{prompt: a, n: [3]}", "prompts[0].n: [3] is not allowed; it must be a whole number in 1..100000"),
    entry("{prompt: a, negative_prompt: 3}", "prompts[0].negative_prompt: 3 is not allowed; it must be a text"),
    entry(
        "{prompt: a, image: none.png}", "prompts[0].image: 'none.png' is not allowed; it must be an existing image file"
    ),
    entry("{prompt: a, image: 3}", "prompts[0].image: 3 is not allowed; it must be an existing image file"),
    entry("{prompt: a, image: .}", "prompts[0].image: '.' is not allowed; it must be an existing image file"),
    entry("{prompt: a, image: config.yaml}", "prompts[0].image: 'config.yaml' is no picture that Pillow can read"),
    entry(
        "x, y, x",
        "prompts[2]: 'x' is not allowed; it must be another prompt than that of prompts[0], or of another seed",
    ),
    entry(
        "{prompt: a}, {prompt: a, seed: 0}",
        "prompts[1]: 'a' is not allowed; it must be another prompt than that of ...",
    ),
    Mistake(
        ["prompts=[{prompt: a, seed: 3}]", "seeds_apart=true"],
        "prompts[0].seed: 3 is not allowed; it must be left out, unless seeds_apart=false",
    ),
    Mistake(
        ["prompts=[x, y]", f"seeds=[{2**62}]", "seeds_apart=true"],
        f"seeds: {2**63 + 1} is not allowed; it must be below 2^63, ...",
    ),
    Mistake(
        "prompts_column=text", "prompts_column: 'text' is not allowed; it must be left out: prompts[0] is no mapping"
    ),
    Mistake("prompts_column=[a]", "prompts_column: ['a'] is not allowed; it must be of type str"),
    # files
    Mistake("prompts_file=p.txt", "prompts: [...] is not allowed; it must be left out (prompts=null), as ..."),
    Mistake("prompts=null prompts_file=[a]", "prompts_file: ['a'] is not allowed; it must be of type str"),
    Mistake(
        "prompts=null prompts_file=none.txt",
        "prompts_file: 'none.txt' is not allowed; it must be an existing file, or ...",
    ),
    Mistake(
        "prompts=null prompts_file=~nobody/p.csv",
        "prompts_file: '~nobody/p.csv' is not allowed; it must be an existing file, ...",
    ),
    Mistake(
        "prompts=null prompts_file=https://a.org/p.csv",
        "prompts_file: 'https://a.org/p.csv' is not allowed; it must be an ...",
    ),
    Mistake("prompts=null prompts_file=.", f"prompts_file: '.' is not allowed; it must be {SUFFIXES}"),
    Mistake(
        "prompts=null prompts_file=hf://datasets/a/b",
        f"prompts_file: 'hf://datasets/a/b' is not allowed; it must be {SUFFIXES}",
    ),
    of_file("p", "a\n", f"prompts_file: 'p' is not allowed; it must be {SUFFIXES}"),
    of_file("p.docx", "a\n", f"prompts_file: 'p.docx' is not allowed; it must be {SUFFIXES}"),
    of_file("p.yaml", "[a]\n", f"prompts_file: 'p.yaml' is not allowed; it must be {SUFFIXES}"),
    of_file("p.csv.gz", b"\x1f\x8b", f"prompts_file: 'p.csv.gz' is not allowed; it must be {SUFFIXES}"),
    *(
        of_file(
            f"p.{kind}", content, f"prompts_file: 'p.{kind}' is not allowed; it must be with at least one prompt in it"
        )
        for kind, content in (
            ("txt", ""),
            ("TXT", " \n\n"),
            ("csv", ""),
            ("tsv", "prompt\tseed\n"),
            ("json", "[]"),
            ("jsonl", "\n"),
        )
    ),
    of_file("p.txt", "a\nb\nA cat in caf\xe9\n".encode("latin-1"), "p.txt line 3 is not UTF-8: ..."),
    of_file("p.csv", "prompt\na cat\n".encode("utf-16"), "p.csv line 1 is not UTF-8: ..."),
    of_file("p.json", b'[\n"a",\n"\xff"]', "p.json line 3 is not UTF-8: ..."),
    of_file(
        "p.txt",
        "x\ny\n\nx\n",
        "p.txt line 4: 'x' is not allowed; it must be another prompt than that of p.txt line 1, or ...",
    ),
    of_file(
        "p.txt",
        "a\n",
        "prompts_column: 'text' is not allowed; it must be left out: p.txt line 1 is no mapping",
        "prompts_column=text",
    ),
    of_file(
        "p.csv",
        "text,id\na,1\n",
        "p.csv line 2: ['text', 'id'] is not allowed; it must be a text, or columns of which one is 'prompt' ...",
    ),
    of_file(
        "p.csv",
        "prompt\na\n",
        "p.csv line 2: ['prompt'] is not allowed; it must be a text, or columns of which one is 'text' ...",
        "prompts_column=text",
    ),
    of_file(
        "p.csv",
        "prompt;seed\na;1\n",
        "p.csv line 2: ['prompt;seed'] is not allowed; it must be a text, or columns of which one is ...",
    ),
    of_file(
        "p.csv",
        "prompt,seed\na,1\na, b,2\n",
        "p.csv line 3: '3 cells' is not allowed; it must be 2, one for each column",
    ),
    of_file("p.csv", "prompt,seed\na\n", "p.csv line 2: '1 cells' is not allowed; it must be 2, one for each column"),
    of_file(
        "p.csv",
        "prompt,prompt\na,b\n",
        "p.csv line 1: ['prompt'] is not allowed; it must be the names of columns, each once",
    ),
    of_file("p.csv", 'prompt\n"a\nb\n', "p.csv line 2 cannot be divided into cells: unexpected end of data"),
    of_file("p.csv", 'prompt\na\n"b" c\n', "p.csv line 3 cannot be divided into cells: ..."),
    of_file("p.csv", "prompt,n\n,1\n", f"p.csv line 2: prompt: None is not allowed; it must be {TEXT}"),
    of_file(
        "p.csv",
        'prompt,n\n"a\nb",1\nc,x\n',
        "p.csv line 4: n: 'x' is not allowed; it must be a whole number in 1..100000",
    ),
    of_file(
        "p.csv",
        "prompt,seed\na,1e3\n",
        "p.csv line 2: seed: '1e3' is not allowed; it must be a whole number in 0..2^63-1",
    ),
    of_file(
        "p.csv",
        "prompt,image\na,none.png\n",
        "p.csv line 2: image: 'none.png' is not allowed; it must be an existing image file",
    ),
    of_file(
        "p.csv",
        "prompt,Seed\na,1\n",
        "p.csv line 2: Seed: 'Seed' is not allowed; it must be a column of another name...",
    ),
    of_file(
        "p.tsv", "prompt\tseed\na\tb\tc\n", "p.tsv line 2: '3 cells' is not allowed; it must be 2, one for each column"
    ),
    of_file("p.json", '["a"', "p.json is no JSON: Expecting ',' delimiter at column 5"),
    of_file("p.json", '[\n "a"\n "b"]', "p.json is no JSON: Expecting ',' delimiter at line 3 column 2"),
    of_file("p.json", '{"prompts": ["a"]}', "p.json: 'dict' is not allowed; it must be a list of texts or of objects"),
    of_file("p.json", "3", "p.json: 'int' is not allowed; it must be a list of texts or of objects"),
    of_file("p.json", '["a", 3]', "p.json entry 2: 3 is not allowed; it must be a text, or a mapping with 'prompt'"),
    of_file("p.json", "[" * 100_000, "p.json is no JSON: ..."),
    of_file("p.json", '["\\ud800"]', f"p.json entry 1: prompt: '\\ud800' is not allowed; it must be {TEXT}"),
    of_file(
        "p.json",
        '[{"prompt": "a", "tag": "\\ud800"}]',
        "p.json entry 1: tag: '\\ud800' is not allowed; it must be a text that files can hold",
    ),
    of_file("p.jsonl", '{"prompt": "a"}\n\na cat\n', "p.jsonl line 3 is no JSON: Expecting value at column 1"),
    of_file(
        "p.jsonl",
        '{"prompt": "a"}\n{"prompt": "b"\n',
        "p.jsonl line 2 is no JSON: Expecting ',' delimiter at column 15",
    ),
    of_file("p.ndjson", json.dumps([["a"]]), "p.ndjson line 1: prompt: ['a'] is not allowed; ..."),
    of_file(
        "p.jsonl",
        '{"text": "a"}\n',
        "p.jsonl line 1: ['text'] is not allowed; it must be a text, or columns of which one is 'prompt' ...",
    ),
    of_file(
        "p.jsonl",
        '{"prompt": "a", "seed": {}}\n',
        "p.jsonl line 1: seed: {} is not allowed; it must be a whole number in 0..2^63-1",
    ),
    of_file("p.parquet", "PAR1", "prompts_file: 'p.parquet' is no Parquet file that can be read"),
    of_file("p.PARQUET", "prompt\na\n", "prompts_file: 'p.PARQUET' is no Parquet file that can be read"),
]
