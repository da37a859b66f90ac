"""The guides' tables of figures are those of docs/figures/, and no figure is typed by hand."""

import json
import re

import pytest

from docs import figures
from docs.figures import ROOT

TABLES = figures.read()


@pytest.mark.parametrize("path", figures.guides(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_guide_shows_what_its_figures_say(path):
    text = path.read_text()
    assert figures.rewritten(text, TABLES) == text, "run `python docs/figures.py`"
    assert text.count("<!-- figures:") == text.count("<!-- end of figures -->") == len(figures.MARKED.findall(text))


def test_every_table_is_shown_once():
    shown = [name for path in figures.guides() for _, name, _, _ in figures.MARKED.findall(path.read_text())]
    assert sorted(shown) == sorted(TABLES)


@pytest.mark.parametrize("path", figures.guides(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_measured_figure_is_typed_into_a_guide(path):
    """A sweep's own summary is written by `raysearch sweep`."""
    if path.name.startswith("sweep_"):
        return
    written = figures.MARKED.sub("", path.read_text())
    assert [line for line in written.splitlines() if re.search(r"± ?\d|\d\.\d ?%", line)] == []


def test_a_file_is_refused_if_a_row_is_too_short_or_nobody_says_where_it_is_from(tmp_path):
    values = {"command": "c", "machine": "m", "date": "2026-11-29", "tables": {"t": {"columns": ["a", "b"]}}}
    values["tables"]["t"]["rows"] = [["1"]]
    (tmp_path / "f.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"f\.json, t: a row must have 2 texts"):
        figures.read(tmp_path)
    values["tables"]["t"]["rows"] = [["1", "2"]]
    (tmp_path / "f.json").write_text(json.dumps(values | {"date": None}))
    with pytest.raises(ValueError, match="must have a date, or a source"):
        figures.read(tmp_path)
    (tmp_path / "f.json").write_text(json.dumps(values))
    text = "<!-- figures: f/t -->\nold\n<!-- end of figures -->"
    assert "| 1 | 2 |\n\n`c` (m; 2026-11-29)\n" in figures.rewritten(text, figures.read(tmp_path))


def anchors(text):
    """The names that GitHub gives to the headings of a guide."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", figures.guides(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text()), link
