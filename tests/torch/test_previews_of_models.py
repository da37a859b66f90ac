"""Previews and posters of what real workers decode: they show the right frames, and nobody is charged for them."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from runs import ARMS, config, run

import raysearch
from actors.backend import Backend
from actors.workers import pulse, thumbnails
from raysearch.session.session import Session

MORE = {"name": "more", "policy": {"name": "best_of_n", "n": 4}}  # the candidates of `bon`, and one besides


def picture(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(float)


def off(a, b):
    return np.abs(a - b).mean()


def test_a_sprite_shows_the_frames_that_rewards_saw(tiny, tmp_path):
    """Of all rows the winner's is nearest to the winner's video; other arms show the same pictures."""
    values = {"arms": [*ARMS[1:], MORE], "fleet": {"scorers": {"slots": 2}}, "output": {"previews": "all"}}
    rows, _, frames = run(tiny, tmp_path / "run", **values)
    candidates = pq.read_table(tmp_path / "run" / "candidates.parquet").to_pylist()
    shown = {}
    for row in rows:
        clip, own = frames[row["search_id"]], [c for c in candidates if c["search_id"] == row["search_id"]]
        sprite = picture(tmp_path / "run" / "previews" / f"{row['search_id']}.webp")
        places = {c["candidate"]: c["preview"] for c in own if c["preview"] is not None}
        assert sprite.shape == (32 * len(places), 96, 3)
        strips = np.split(sprite, len(places))
        distances = [off(s, np.concatenate([clip[0], clip[4], clip[8]], 1)) for s in strips]
        if row["arm"] != "rgrp":  # which gives its winner no last look
            assert np.argmin(distances) == places[row["winner"]]
            assert sorted(distances)[1] > 1.2 * min(distances)  # frames of random weights are hard to compress
        for candidate, place in places.items():
            assert off(strips[place], shown.setdefault(candidate, strips[place])) < 3
        poster = picture(tmp_path / "run" / "posters" / f"{row['search_id']}.webp")
        assert off(poster, clip[4]) < off(poster, clip[3]) and off(poster, clip[4]) < off(poster, clip[5])
    assert len(shown) < sum(c["preview"] is not None for c in candidates)


def test_a_long_videos_poster_is_its_middle_frame(tiny, tmp_path):
    values = config(tiny, long={"chunks": 3, "prefix": 1}, output={"scale": 2})
    asyncio.run(Session(values, Backend(), run_dir=tmp_path / "run").run())
    (clip,) = map(np.load, (tmp_path / "run" / "frames").iterdir())
    (poster,) = (tmp_path / "run" / "posters").iterdir()
    distances = [off(picture(poster), frame.repeat(2, 0).repeat(2, 1)) for frame in clip]
    assert len(clip) == 25 and np.argmin(distances) == 12


def test_a_run_without_posters_makes_none(tiny, tmp_path, monkeypatch):
    def none(frame, scale):
        raise AssertionError("a poster was made")

    monkeypatch.setattr(thumbnails, "poster", none)
    values = config(tiny, output={"posters": False})
    asyncio.run(Session(values, Backend(), run_dir=tmp_path / "run").run())
    (row,) = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    assert row["status"] == "done" and not (tmp_path / "run" / "posters").exists()


def test_nobody_is_charged_for_small_pictures(tiny, tmp_path, monkeypatch):
    """On a clock that goes on only while they are made."""
    now = [0.0]

    def slow(make):
        def made(*arguments, **more):
            now[0] += 1000
            return make(*arguments, **more)

        return made

    for name in ("strip", "sprite", "poster"):
        monkeypatch.setattr(thumbnails, name, slow(getattr(thumbnails, name)))
    monkeypatch.setattr(pulse, "time", SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: now[0]))
    rows, _, _ = run(tiny, tmp_path / "run", arms=ARMS)
    charged = [c["scoring_s"] for c in pq.read_table(tmp_path / "run" / "candidates.parquet").to_pylist() if c["by"]]
    assert now[0] >= 1000 * len(charged) > 0
    assert set(charged) == {0.0}
    assert max(r["replica_seconds"] for r in rows) < 1000  # denoisers have a clock of their own


@pytest.mark.parametrize("previews", ["kept", "none"])
def test_pictures_of_a_mixture_are_shown(tmp_path, previews):
    """A point is a picture of one frame."""
    overrides = ["rewards.search.name=tiny:Redness", f"run_dir={tmp_path / 'run'}", "output.videos=true"]
    overrides += [f"output.previews={previews}"]
    raysearch.run("configs/mixture.yaml", overrides, report=lambda line: None)
    for row in pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist():
        own = pq.read_table(tmp_path / "run" / "candidates.parquet").to_pylist()
        own = [c for c in own if c["search_id"] == row["search_id"]]
        assert picture(tmp_path / "run" / "posters" / f"{row['search_id']}.webp").shape == (32, 32, 3)
        shown = {c["candidate"] for c in own if c["preview"] is not None}
        assert shown == {c["candidate"] for c in own if c["kept"] and c["by"] and previews == "kept"}
