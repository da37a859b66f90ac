"""A run as a notebook shows it: what is best, pictures or a table, and nothing of a file's text that is markup."""

import os
import re
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from fakes import session

import raysearch
from raysearch.errors import ConfigError
from raysearch.session import card
from raysearch.session.snapshot import ArmStatus, Snapshot
from raysearch.testing import FakeBackend, FakeFleet, run_virtual

EVIL = '</td><script>alert(1)</script><img src=x onerror="alert(1)">'


def made(path, **values):
    run_virtual(session(path, FakeBackend(), output={"posters": False}, **values).run([]))
    return raysearch.open(path)


class Tags(HTMLParser):
    """The tags of a piece of HTML, with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def test_a_run_is_shown_as_a_table_best_first(tmp_path):
    result = made(tmp_path / "run", prompts=[f"p{i}" for i in range(20)], policy={"name": "best_of_n", "n": 2})
    rows = sorted(result.searches.to_pylist(), key=lambda r: -r["reward_search"])
    assert result.best == rows[0]
    seen = Tags(result._repr_html_())
    assert (seen.count("tr"), seen.count("img")) == (1 + card.MOST, 0)
    shown = re.findall(r"<td>(p\d+)</td>", result._repr_html_())
    assert shown == [r["prompt"] for r in rows[: card.MOST]]
    assert "run finished: 20/20 searches" in seen.text and "and 8 more in .searches" in seen.text
    assert f"{rows[0]['reward_search']:.3f}" in seen.text


def test_a_run_without_search_rewards_is_ranked_by_the_judge(tmp_path):
    result = made(tmp_path / "run", prompts=list("abc"))
    rows = result.searches.to_pylist()
    assert {r["reward_search"] for r in rows} == {None}
    assert result.best == max(rows, key=lambda r: r["reward_holdout"])


def test_a_run_with_posters_is_shown_as_pictures(tmp_path):
    result = made(tmp_path / "run", prompts=["a", "b"])
    ids = [r["search_id"] for r in result.searches.to_pylist()]
    (tmp_path / "run" / "posters").mkdir()
    (tmp_path / "run" / "posters" / f"{ids[0]}.webp").write_bytes(b"RIFF")
    seen = Tags(result._repr_html_())
    assert (seen.count("figure"), seen.count("table")) == (2, 0)
    assert [a["src"] for tag, a in seen.tags if tag == "img"] == ["data:image/webp;base64,UklGRg=="]
    assert "no picture" in seen.text


def test_a_run_that_goes_on_says_how_long():
    """A reward of 0 is one, too."""
    s = Snapshot("r", "running", "", 0.0, 1.0, 5.0, 0.0, 0, {"a": ArmStatus(4, 3, failed=1)}, None)
    assert card._state(s) == "running: 3/4 searches, 1 failed, best reward 0.000, 5 s left"


def test_no_link_is_followed_and_no_huge_picture_taken(tmp_path):
    result = made(tmp_path / "run", prompts=["a"])
    (row,) = result.searches.to_pylist()
    (tmp_path / "secret").write_bytes(b"secret")
    posters = tmp_path / "run" / "posters"
    posters.mkdir()
    poster = posters / f"{row['search_id']}.webp"
    poster.symlink_to(tmp_path / "secret")
    assert Tags(result._repr_html_()).count("img") == 0
    poster.unlink()
    poster.write_bytes(b"x" * (card.LARGEST + 1))
    assert Tags(result._repr_html_()).count("img") == 0
    for name in ("0-/../../secret", "../secret", "x"):
        assert card._poster(tmp_path / "run", name) == ""


@pytest.mark.parametrize("posters", [True, False])
def test_hostile_texts_are_inert(tmp_path, posters):
    path = tmp_path / "<b>run"
    result = made(path, prompts=[EVIL])
    if posters:
        (path / "posters").mkdir()
        (path / "posters" / f"{result.best['search_id']}.webp").write_bytes(b"x")
    seen = Tags(result._repr_html_())
    assert seen.count("script") == 0 and seen.count("img") == posters and "<b>run" in seen.text
    assert EVIL.split(">")[0] in seen.text
    table = result.searches.set_column(
        result.searches.schema.get_field_index("arm"), "arm", pa.array([EVIL + "x" * 10**6])
    )
    seen = Tags(card.html(path, table, None))
    assert seen.count("script") == 0 and len(seen.text) < 2000 and not any("onerror" in a for _, a in seen.tags)


def test_a_run_whose_searches_all_failed_has_no_best(tmp_path):
    fleet = FakeFleet()
    fleet.replicas[1].fault = lambda call: ValueError("a bad day")
    run_virtual(session(tmp_path / "run", FakeBackend(fleet)).run([]))
    result = raysearch.open(tmp_path / "run")
    assert result.best is None
    assert "2 failed" in Tags(result._repr_html_()).text


def test_what_is_no_run_is_not_opened(tmp_path, monkeypatch):
    for path in (tmp_path, tmp_path / "none", str(tmp_path)):
        with pytest.raises(ConfigError, match=r"RUN_DIR: .* must be the folder of a run"):
            raysearch.open(path)
    made(tmp_path / "run")
    os.remove(tmp_path / "run" / "status.json")  # of a run that nobody watched
    monkeypatch.chdir(tmp_path)
    opened = raysearch.open("run")
    assert opened.path == tmp_path / "run" and "2 searches ended" in opened._repr_html_()
    os.remove(tmp_path / "run" / "candidates.parquet")
    with pytest.raises(ConfigError, match=r"with searches\.parquet and candidates\.parquet"):
        _ = opened.candidates
