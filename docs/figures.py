"""Write the tables of figures into the guides, so that nobody types a figure by hand.

    python docs/figures.py

A guide marks where a table belongs, and everything between both markers is written by this command:

    <!-- figures: overhead/overhead -->
    <!-- end of figures -->

The name is a file of docs/figures/ and a table in it. Such a file is what a benchmark writes with `--json FILE`: the
command, the date, the machine, and tables of columns and rows. `source` is there only where a benchmark could not be
run again, and says where its figures were recorded. With `--check` nothing is written; the exit code is 1 if a guide
differs from its figures.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "figures"
MARKED = re.compile(r"(<!-- figures: (\S+) -->\n)(.*?)(<!-- end of figures -->)", re.DOTALL)


@dataclass(frozen=True)
class Figures:
    """One table of a file: its columns, its rows, and how they were made."""

    commands: tuple[str, ...]
    machine: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    date: str | None = None
    source: str | None = None

    def markdown(self) -> str:
        """The table, and under it a line that says how it was made."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        made = f"{self.machine}; {self.source or self.date}"
        return f"{table}\n\n{', '.join(f'`{c}`' for c in self.commands)} ({made})\n"


def read(folder: Path = FOLDER) -> dict[str, Figures]:
    """All tables by name, `file/table`. Raises ValueError where a file lacks something or a row has a wrong length."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        values = json.loads(path.read_text())
        for name, table in values["tables"].items():
            found[f"{path.stem}/{name}"] = _figures(f"{path.name}, {name}", values, table)
    return found


def _figures(where: str, values: dict[str, Any], table: dict[str, Any]) -> Figures:
    columns, rows = tuple(table["columns"]), tuple(tuple(row) for row in table["rows"])
    for row in rows:
        if len(row) != len(columns) or not all(isinstance(cell, str) for cell in row):
            raise ValueError(f"{where}: a row must have {len(columns)} texts, one for each column: {row}")
    if not values.get("source") and not values.get("date"):
        raise ValueError(f"{where}: the file must have a date, or a source that says where the figures were recorded")
    command = table.get("command") or values["command"]  # tables of one file may be of different commands
    commands = (command,) if isinstance(command, str) else tuple(command)
    return Figures(commands, values["machine"], columns, rows, values.get("date"), values.get("source"))


def guides() -> list[Path]:
    """The Markdown files that may have tables of figures."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("actors/*/*.md")])


def rewritten(text: str, figures: dict[str, Figures]) -> str:
    """The guide with every marked table as its figures say. Raises KeyError for a name that no file has."""
    return MARKED.sub(lambda m: f"{m[1]}{figures[m[2]].markdown()}{m[4]}", text)


def main() -> int:
    """Rewrite the tables of all guides, or check them; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a guide is out of date")
    args = parser.parse_args()
    figures, differ = read(), 0
    for path in guides():
        text = path.read_text()
        if (new := rewritten(text, figures)) != text:
            differ += 1
            print(f"{path.relative_to(ROOT)}: {'out of date' if args.check else 'written'}")
            if not args.check:
                path.write_text(new)
    return 1 if args.check and differ else 0


if __name__ == "__main__":
    sys.exit(main())
