"""Every `sh` block of the README and of the guides does what it says, but for those that say why no test runs them.

Those have the line `<!-- not run by tests: REASON -->` above them, which no page shows. What they name must exist
all the same, and their configs must take their overrides.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from raysearch.config import config as configuration
from raysearch.session import dataset
from raysearch.sweep import grid

ROOT = Path(__file__).parents[2]
GUIDES = [p for pattern in ("*.md", "*/*.md", "actors/*/*.md", "configs/*/*.md") for p in sorted(ROOT.glob(pattern))]
MARK = re.compile(r"<!-- not run by tests: \S.* -->")
INSTALLS = "python3 -m venv .venv && "
PYTHON = ".venv/bin/python"
LOAD = {"run": configuration.load, "collect": dataset.load, "sweep": grid.load}


@dataclass(frozen=True)
class Block:
    """A fenced block of commands; `why` no test runs it is empty where one does."""

    guide: str
    line: int
    why: str
    text: str

    @property
    def commands(self) -> list[str]:
        return self.text.replace("\\\n", " ").splitlines()


def blocks(guide: Path) -> list[Block]:
    lines, found = guide.read_text().split("\n"), []
    name = str(guide.relative_to(ROOT))
    for i, line in enumerate(lines):
        if line.strip() == "```sh":
            text = "\n".join(lines[i + 1 : lines.index("```", i)])
            found.append(Block(name, i + 1, lines[i - 1] if MARK.fullmatch(lines[i - 1]) else "", text))
    return found


BLOCKS = [block for guide in GUIDES for block in blocks(guide)]
RUN = [b for b in BLOCKS if not b.why and not b.text.startswith(INSTALLS)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout, with this interpreter's environment as its own."""
    copy = tmp_path_factory.mktemp("guides") / "raysearch"
    left = {
        ".git",
        ".venv",
        "runs",
        *(p.name for p in ROOT.glob("training*")),
        *(p.name for p in ROOT.glob(".*_cache")),
    }
    shutil.copytree(ROOT, copy, ignore=lambda folder, names: left if Path(folder) == ROOT else {"__pycache__"})
    (copy / ".venv").symlink_to(Path(sys.executable).parents[1])
    return copy


def test_the_readme_is_among_the_guides_and_some_blocks_are_run():
    assert {"README.md", "tests/README.md"} <= {b.guide for b in BLOCKS}
    assert RUN


@pytest.mark.parametrize("guide", sorted({b.guide for b in RUN}))
def test_a_guide_runs_as_written(checkout, guide):
    """From top to bottom, as a reader would: a later block may use what an earlier one made."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for block in (b for b in RUN if b.guide == guide):
        done = subprocess.run(
            ["bash", "-ec", block.text], cwd=checkout, env=environment, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, f"{guide}:{block.line}\n{done.stdout}{done.stderr}"


def words(command: str) -> list[str]:
    """Those of a Python command of ours, from the interpreter's first argument on."""
    found = shlex.split(command, comments=True)
    return found[found.index(PYTHON) + 1 :] if PYTHON in found else []


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: f"{b.guide}:{b.line}")
def test_what_a_block_names_is_there(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in block.commands:
        if re.search(r"\w:\w", command):  # a policy or a reward in a file of the reader's
            continue
        match words(command):
            case ["-m", "raysearch", name, config, *overrides] if name in LOAD:
                LOAD[name](Path(config), [o for o in overrides if not o.startswith("--")])
            case ["-m", "raysearch", "train" | "prfl", config, *_]:
                assert Path(config).is_file()
            case ["-m", module, *_] if module.startswith("actors."):
                assert Path(*module.split(".")).with_suffix(".py").is_file()
            case [script, *_] if script.startswith("tests/"):
                assert Path(script).exists()


def test_the_check_runs_the_readmes_own_command():
    """As it stands: it installs from nothing, and its last part is what tests."""
    (command,) = [c for b in blocks(ROOT / "README.md") for c in b.commands if c.startswith(INSTALLS) and "pytest" in c]
    script = "\n".join(re.findall(r"^(?:command|install)=.*$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE))
    said = subprocess.run(
        ["bash", "-euc", f'{script}\necho "$install"; echo "$tests"'], cwd=ROOT, capture_output=True, text=True
    )
    assert said.stdout.splitlines() == [command.rpartition(" && ")[0], command.rpartition(" && ")[2]]
    assert command.rpartition(" && ")[2] == f"{PYTHON} -m pytest -q"
