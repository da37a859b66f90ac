"""Embeddings of texts on the driver's disk: whether a run starts encoders, when they end, and that nothing changes."""

import asyncio
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes import ARMS, config, cut, same, unlucky

from raysearch.config.cache import embeddings_folder
from raysearch.config.fleet import EncoderPoolConfig
from raysearch.engine.embeddings import Embeddings
from raysearch.engine.protocol import File, Prefix, Text, Whole
from raysearch.errors import ConfigError, NoReplica, ReplicaDied
from raysearch.recipe.origins import Recording
from raysearch.session.session import Session
from raysearch.testing import FakeBackend, FakeFleet, FakeReplica, fake_sampler, run_virtual, virtual_now


def go(path, on=None, cache=True, release=False, encoding=b"fake", **values):
    """The rows of a run, what its encoders were asked for, and what was reported. `cache` is a folder, or a bool."""
    on, lines = on or FakeFleet(), []
    block = {"cache": cache if isinstance(cache, bool) else str(cache), "release": release}
    c = config(**{"arms": ARMS[:2], "fleet": {"encoders": block}} | values)
    s = Session(c, FakeBackend(on, encoding=encoding), run_dir=path, clock=virtual_now, report=lines.append)
    run_virtual(s.run())
    slots = s.progress.dispatcher.tally.slots.get("encoder")
    assert slots == (None if STARTED[:24] in str(lines) else 0 if RELEASED in lines else len(encoders(on)))
    asked = [c.request.what for r in encoders(on) for c in r.calls]
    rows = pq.read_table(path / "searches.parquet").to_pylist()
    return rows, [w.text if isinstance(w, Text) else w for w in asked], lines


def encoders(fleet):
    return [r for r in fleet.replicas if r.kind == "encoder"]


def held(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.embedding"))


STARTED = "no encoder is started: the embeddings of all texts (3) are there"
RELEASED = "encoders are released: every text is encoded"


def test_a_second_run_starts_no_encoder_and_finds_the_same(tmp_path):
    first, asked, lines = go(tmp_path / "first")
    assert sorted(asked) == ["", "a", "b"] and STARTED not in lines
    second, asked, lines = go(tmp_path / "second")
    assert (asked, lines) == ([], [STARTED]) and same(second) == same(first)
    without, asked, lines = go(tmp_path / "without", cache=False)
    assert len(asked) == 3 and same(without) == same(first)


def test_only_what_is_missing_is_encoded(tmp_path):
    go(tmp_path / "first")
    _, asked, lines = go(tmp_path / "more", prompts=["a", "b", "c"])
    assert asked == ["c"] and not lines
    _, asked, _ = go(tmp_path / "another", prompts=["a"], encoding=b"other weights, precision, device or library")
    assert sorted(asked) == ["", "a"]


def test_a_run_that_goes_on_asks_for_the_texts_of_what_is_left(tmp_path):
    whole, _, _ = go(tmp_path / "whole", prompts=["a", "b"], max_searches=1)
    half = len((tmp_path / "whole" / "journal" / "answers.jsonl").read_bytes().splitlines()) // 2
    path = cut(tmp_path / "whole", tmp_path / "run", half)
    (tmp_path / "embeddings").mkdir()
    _, asked, lines = go(path, cache=tmp_path / "embeddings", resume="require", max_searches=1)
    assert sorted(asked) == ["", "b"] and not lines  # all searches of `a` were done
    rows, asked, lines = go(cut(tmp_path / "whole", tmp_path / "again", half), resume="require", max_searches=1)
    assert asked == [] and lines == [STARTED.replace("3", "2")] and same(rows) == same(whole)


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "another's", "a link", "a folder", "a pipe"])
def test_a_damaged_file_counts_as_missing_and_is_written_anew(tmp_path, damage):
    folder = tmp_path / "embeddings"
    expected, _, _ = go(tmp_path / "first", cache=folder)
    file, other, _ = held(folder)
    content, outside = file.read_bytes(), tmp_path / "outside"
    file.unlink()
    match damage:
        case "cut":
            file.write_bytes(content[:-7])
        case "changed":
            file.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
        case "emptied":
            file.write_bytes(b"")
        case "another's":
            file.write_bytes(other.read_bytes())
        case "a link":
            outside.write_bytes(content)
            file.symlink_to(outside)
            outside.chmod(0o400)
        case "a folder":
            file.mkdir()
        case "a pipe":
            os.mkfifo(file)
    rows, asked, lines = go(tmp_path / "second", cache=folder)
    assert len(asked) == 1 and not lines and same(rows) == same(expected)
    if damage != "a folder":  # which stays in the way
        assert file.read_bytes()[:16] == content[:16] and not file.is_symlink()
        assert go(tmp_path / "third", cache=folder)[1:] == ([], [STARTED])
    assert [p.name for p in folder.iterdir() if p.suffix != ".embedding"] == []


def test_a_full_disk_leaves_nothing_and_harms_nobody(tmp_path, monkeypatch):
    expected, _, _ = go(tmp_path / "first", cache=False)

    def full(self, target):
        raise OSError("No space left on device")

    folder = tmp_path / "embeddings"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        rows, asked, lines = go(tmp_path / "second", cache=folder, release=True)
    assert len(asked) == 3 and same(rows) == same(expected) and list(folder.iterdir()) == []
    assert lines == ["encoders are not released: not every text could be encoded, and its embedding be kept"]


def test_runs_share_the_folder_at_the_same_time(tmp_path):
    """Two runs in one loop encode the same texts; each takes what is whole, and no half file is left."""
    folder = tmp_path / "embeddings"
    expected, _, _ = go(tmp_path / "alone", cache=False)
    c = config(arms=ARMS[:2], fleet={"encoders": {"cache": str(folder)}})
    fleets = [FakeFleet(seconds={"encoder": n}) for n in (1.0, 1.5)]
    runs = [
        Session(c, FakeBackend(f, encoding=b"fake"), run_dir=tmp_path / str(i), clock=virtual_now)
        for i, f in enumerate(fleets)
    ]

    async def both():
        await asyncio.gather(*(s.run() for s in runs))

    run_virtual(both())
    for i in range(2):
        assert same(pq.read_table(tmp_path / str(i) / "searches.parquet").to_pylist()) == same(expected)
    assert len(held(folder)) == len(list(folder.iterdir())) == 3


def test_released_encoders_are_gone_while_searches_go_on(tmp_path):
    expected, _, _ = go(tmp_path / "plain", cache=False, seeds=[0, 1])
    fleet = FakeFleet()
    rows, asked, lines = go(tmp_path / "run", fleet, release=True, seeds=[0, 1], max_searches=1)
    assert lines == [RELEASED] and sorted(asked) == ["", "a", "b"]
    assert all(r.gone for r in encoders(fleet)) and same(rows) == same(expected)


def test_what_is_lost_after_the_release_comes_from_the_disk(tmp_path):
    """Denoisers lose their inputs again and again, also embeddings; nobody is left to make these once more."""
    expected, _, _ = go(tmp_path / "plain", cache=False)
    rows, asked, lines = go(tmp_path / "run", unlucky(FakeFleet()), release=True, max_searches=1)
    assert lines == [RELEASED] and len(asked) == 3 and same(rows) == same(expected)


def test_encoders_that_die_are_replaced_before_they_are_released(tmp_path):
    expected, _, _ = go(tmp_path / "plain", cache=False)
    deaths = iter([True, True])
    replicas = [*FakeFleet().replicas, FakeReplica("encoder-1", "encoder", revives_after=500.0)]
    for r in replicas:
        if r.kind == "encoder":
            r.fault = lambda call: ReplicaDied("gone") if next(deaths, False) else None
    late = FakeReplica("encoder-2", "encoder")
    fleet = FakeFleet(replicas=replicas, arriving=[(30.0, late)])
    rows, _, lines = go(tmp_path / "run", fleet, release=True)
    assert lines == [RELEASED] and not late.calls and same(rows) == same(expected)


def test_a_text_that_cannot_be_encoded_keeps_the_encoders_and_fails_its_own_search(tmp_path):
    fleet = FakeFleet()
    for r in encoders(fleet):
        r.fault = lambda call: ValueError("bad words") if call.request.what.text == "a" else None
    rows, _, lines = go(tmp_path / "run", fleet, release=True, arms=ARMS[:1])
    assert [(r["prompt"], r["status"]) for r in rows] == [("a", "failed"), ("b", "done")]
    assert "encoders are not released: not every text could be encoded, and its embedding be kept" in lines
    assert not any(r.gone for r in encoders(fleet))


def test_a_run_with_chunks_that_are_encoded_anew_has_an_encoder(tmp_path):
    go(tmp_path / "first", long={"chunks": 2}, prompts=["a"])
    _, asked, lines = go(tmp_path / "again", long={"chunks": 2}, prompts=["a"])
    assert {type(w) for w in asked} == {Prefix} and not lines
    with pytest.raises(ConfigError, match=r"^fleet.encoders.release: True .* must be false with long.anew=true, which"):
        go(tmp_path / "released", long={"chunks": 2}, release=True)
    go(tmp_path / "direct", long={"chunks": 2, "anew": False}, prompts=["a"], release=True)


def test_a_run_without_an_encoder_that_needs_one_ends_and_says_how_to_go_on(tmp_path):
    """A file that is deleted while the run goes on: all is left undone, and the next process starts an encoder."""
    folder = tmp_path / "embeddings"
    expected, _, _ = go(tmp_path / "first", cache=folder, max_searches=1)
    fleet = FakeFleet()

    def fault(call):
        for file in held(folder):
            file.unlink()

    for r in fleet.replicas:
        r.fault = fault
    with pytest.raises(
        NoReplica, match=r"encode: no encoder is left: none was foreseen; .*cache=false.*resume=require"
    ):
        go(tmp_path / "run", fleet, cache=folder, max_searches=1)
    rows, asked, _ = go(tmp_path / "run", cache=folder, max_searches=1, resume="require")
    assert asked and same(rows) == same(expected) and {r["status"] for r in rows} == {"done"}


PICTURE = Recording("a.png", b"content")


def test_the_key_covers_what_an_embedding_depends_on(tmp_path):
    e, s = Embeddings(tmp_path, b"fake"), replace(fake_sampler(), call="{}")
    samplers = [
        s,
        replace(s, call='{"clip_skip":1}'),
        replace(s, negative_prompt="ugly"),
        replace(s, guidance_scale=1.0),
        replace(s, guidance_scale_2=3.0),
        replace(s, max_sequence_length=8),
        replace(s, num_frames=5),
        replace(s, height=8),
        replace(s, width=8),
    ]
    whats = [Text("a", 8), Text("a", 9), Text("b", 8), Whole("b", s), *(Whole("a", x) for x in samplers)]
    keys = {e.key(w) for w in whats} | {Embeddings(tmp_path, b"other").key(w) for w in whats}
    assert len(keys) == 2 * len(whats)
    draft = replace(fake_sampler(3), call="{}", nfe=1, fingerprint="fast")
    assert e.key(Whole("a", draft)) == e.key(Whole("a", s))
    pictured = File("image", PICTURE, (1, 8, 8))
    assert [e.key(w) for w in (pictured, Prefix(1, b"state"), Whole("a", s, (("image", pictured),)))] == [None] * 3


def test_what_arrays_cannot_hold_is_not_written(tmp_path):
    e = Embeddings(tmp_path, b"fake", lambda what, arrays: arrays)
    e.write(Text("a", 8), {})
    assert list(tmp_path.iterdir()) == [] and e.read(Text("a", 8)) is None
    e.write(Text("a", 8), {"file": np.arange(3), "0": np.zeros((2, 2), np.float32)})
    found = e.read(Text("a", 8))
    assert found["file"].tolist() == [0, 1, 2] and found["0"].dtype == np.float32


def test_where_the_folder_is(tmp_path, monkeypatch):
    def folder(**values):
        return embeddings_folder(EncoderPoolConfig(**values))

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("RAYSEARCH_CACHE")
    assert folder() == tmp_path / "home" / ".cache" / "raysearch" / "embeddings"
    assert stat.S_IMODE(folder().stat().st_mode) == 0o700
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its specification says to ignore
    assert folder() == tmp_path / "home" / ".cache" / "raysearch" / "embeddings"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folder() == tmp_path / "xdg" / "raysearch" / "embeddings"
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path / "own"))
    assert folder() == tmp_path / "own" / "embeddings"
    assert folder(cache=str(tmp_path / "given")) == tmp_path / "given"
    assert folder(cache=False) is None and folder(cache=None) is None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("RAYSEARCH_CACHE")
    assert folder() is None  # nobody named it: a run does without
    with pytest.raises(ConfigError, match=r"fleet.encoders.release: True is not allowed; it must be false: the user's"):
        folder(release=True)
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"RAYSEARCH_CACHE: .*file' is not allowed; it must be a folder that can be"):
        folder()
