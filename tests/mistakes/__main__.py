"""Runs every mistaken command in this process, those that need no torch first, and prints how many there are."""

import sys
import tempfile
from pathlib import Path

from mistakes import tables


def main() -> int:
    """Print the count by kind, and each row that is not answered as contracted; returns 1 if there is one."""
    wrong = dict.fromkeys(tables(), 0)
    for heavy in (False, True):
        for kind, table in tables().items():
            for row in table:
                if row.heavy == heavy:
                    with tempfile.TemporaryDirectory() as folder:
                        failed = row.fails(Path(folder))
                    if failed:
                        wrong[kind] += 1
                        print(f"{kind}: {' '.join(row.words)}: {failed}")
    print(f"{'kind':12} {'commands':>8} {'not as contracted':>18}")
    for kind, table in tables().items():
        print(f"{kind:12} {len(table):8} {wrong[kind]:18}")
    print(f"{'all':12} {sum(map(len, tables().values())):8} {sum(wrong.values()):18}")
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
