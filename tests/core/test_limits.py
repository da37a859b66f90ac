"""How large the house may grow: files to read at one sitting, a core in a day, and a typed wire."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("raysearch", "policies", "actors", "tests", "docs")
CORE = ("recipe", "search", "engine", "session")
# Of the session: what is shown, and what collections and pages read.
SHOWN = ("display.py", "card.py", "ending.py", "dataset.py", "recording.py")
SPACE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def code(path: Path) -> int:
    """The lines of code in a file: not blank, and no comment or docstring alone."""
    text = path.read_text()
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings |= set(range(node.lineno, node.end_lineno + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SPACE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_lines_of_code_are_counted_as_said(tmp_path):
    (tmp_path / "a.py").write_text(
        '"""A\nb."""\n\nx = [  # why\n    1,\n]\n\n\ndef f():\n    """C."""\n    # why\n    return x\n'
    )
    assert code(tmp_path / "a.py") == 5


@pytest.mark.parametrize("package", PACKAGES)
def test_a_file_can_be_read_at_one_sitting(package):
    assert {p.name: n for p in files(package) if (n := len(p.read_text().splitlines())) > 420} == {}


def test_the_core_is_small():
    counted = {p: code(p) for room in CORE for p in files(f"raysearch/{room}") if p.name not in SHOWN}
    assert sum(counted.values()) <= 4435


def test_the_wire_is_typed_and_queues_are_known_in_few_places():
    knowing = set()
    for path in [*files("raysearch"), *files("actors")]:
        text = path.read_text()
        assert not re.search(r'\barguments\[|\binputs\[\d|origin\["kind"\]', text), path
        if "sampler.queue" in text:
            knowing.add(path.name)
    assert len(knowing) <= 3, knowing
