"""docs/notebook.ipynb runs from its first cell to its last, and what is kept in it is what it shows."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).parents[2] / "docs"
FILE = DOCS / "notebook.ipynb"


def results(notebook) -> list[str]:
    """What each cell of code shows last, as text."""
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    return [next((o["data"]["text/plain"] for o in c.outputs if o.output_type == "execute_result"), "") for c in cells]


def test_the_notebook_runs_as_it_is():
    """In its own folder, as it opens. It shows what the file has, but for where its runs are."""
    kept = nbformat.read(FILE, as_version=4)
    notebook = nbformat.read(FILE, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(DOCS)}}).execute()
    shown = results(notebook)
    assert [s for s in shown if "Result(" not in s] == [s for s in results(kept) if "Result(" not in s]
    assert shown[-2] == "({'done'}, 12)"
    (html,) = [
        o["data"]["text/html"] for c in notebook.cells for o in c.get("outputs", []) if "text/html" in o.get("data", {})
    ]
    assert "finished: 4/4 searches" in html and html.count("<tr>") == 5


def test_the_notebook_is_small_and_tells_nothing_of_a_machine():
    text = FILE.read_text()
    assert len(text) < 20_000
    assert "/tmp/" not in text and "/home/" not in text and "/root/" not in text
