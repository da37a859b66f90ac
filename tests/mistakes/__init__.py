"""Mistaken commands, and the one line that each of them is answered with.

A module of this folder is one kind of mistake: its `TABLE` is a list of `Mistake`. `tests/core/test_mistakes.py` and
`tests/torch/test_heavy_mistakes.py` hold every row to the contract, and `PYTHONPATH=.:tests python -m mistakes` prints
the count by kind.

The contract: exit code 2; nothing on stdout unless the row is `late`; one line on stderr, which names the key, the
value and what is allowed; no torch before the line unless the row is `heavy`; and no run folder is left behind. Lines
on stdout about what takes long are no fault.
"""

import importlib
import io
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
BASE = f"""\
model: {{path: {ROOT}/actors/assets/tiny-wan, height: 32, width: 32, num_frames: 9, max_sequence_length: 40}}
sampler: {{num_steps: 8}}
prompts: [a red circle moving left]
fleet: {{backend: local}}
run_dir: run
"""


def nothing(folder: Path) -> None:
    """Make nothing."""


@dataclass(frozen=True)
class Mistake:
    """A command in an empty folder that holds `config.yaml` (BASE) and `files`, and the line that answers it.

    `arguments` is one text, split at spaces, or a list of words. A word with `=` first makes it `run config.yaml ...`;
    otherwise the arguments are the whole command. In `line`, without its "raysearch: ", `...` stands for any text.
    """

    arguments: str | list[str]
    line: str
    files: Mapping[str, str | bytes] = field(default_factory=dict)  # written before, by their path in the folder
    make: Callable[[Path], None] = nothing  # prepares the folder where files are not enough
    heavy: bool = False  # torch is needed to know it
    code: int = 2
    left: bool = False  # the run folder was there before, and stays
    late: bool = False  # it is found while the fleet starts, after the first lines on stdout
    environ: Mapping[str, str] = field(default_factory=dict)  # of the command, beside what there is

    @property
    def words(self) -> list[str]:
        """The command's arguments."""
        words = self.arguments.split() if isinstance(self.arguments, str) else list(self.arguments)
        return ["run", "config.yaml", *words] if words and "=" in words[0] else words

    def fails(self, folder: Path) -> str:
        """What about the contract does not hold when the command runs in an empty `folder`; empty if all holds."""
        from raysearch.__main__ import CHECKING, COMPARING, CONVERTING, main

        (folder / "config.yaml").write_text(BASE)
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.make(folder)
        out, err, light = io.StringIO(), io.StringIO(), "torch" not in sys.modules
        modules = set(sys.modules)
        sys.path.insert(0, str(folder))
        try:
            with chdir(folder), redirect_stdout(out), redirect_stderr(err), patch.dict(os.environ, self.environ):
                code: object = main(self.words)
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        finally:
            sys.path.remove(str(folder))
            for name in set(sys.modules) - modules:  # a module of this folder is not another row's
                where = getattr(sys.modules[name], "__file__", None) or ""
                if where.startswith(str(folder) + os.sep):
                    del sys.modules[name]
        said = err.getvalue()
        pattern = re.escape("raysearch: " + self.line).replace(re.escape("..."), ".*") + "\n"
        if code != self.code:
            return f"exit code {code}, and it says {said!r}"
        slow = (CHECKING, COMPARING, CONVERTING, "the dry run of arm")
        shown = [line for line in out.getvalue().splitlines() if not line.startswith(slow)]
        if (shown and not self.late) or said.count("\n") != 1:
            return f"more than one line: {out.getvalue()!r} and {said!r}"
        if not re.fullmatch(pattern, said):
            return f"it says {said!r}"
        if not self.heavy and light and "torch" in sys.modules:
            return "torch was imported before the line"
        if not self.left and any((folder / "run").glob("**/*")):
            return "a run folder is left behind"
        return ""


def tables() -> dict[str, list[Mistake]]:
    """The rows of every kind, by the kind's name."""
    kinds = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return {kind: importlib.import_module(f"{__name__}.{kind}").TABLE for kind in kinds}


def rows(*, heavy: bool) -> list[tuple[str, Mistake]]:
    """Each row that needs torch, or each that does not, with a name for its test."""
    return [
        (f"{kind}-{i}-{' '.join(row.words)[:60]}", row)
        for kind, table in tables().items()
        for i, row in enumerate(table)
        if row.heavy == heavy
    ]
