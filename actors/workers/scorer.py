"""A scorer decodes candidates and computes rewards, so that frames never cross the network."""

import io
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from threading import RLock
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from actors.models.source import Source
from actors.rewards import RewardSpec, View, answers, building, earlier
from actors.sampling import potential
from actors.workers import thumbnails, video
from actors.workers.pulse import Pulse, Stopwatch
from actors.workers.state import State, finished
from raysearch.engine.protocol import Compare, Components, Finish, Look, Scored, series
from raysearch.recipe.long_video import Link
from raysearch.session.dataset import rollout

SEEN = 2**30  # bytes: the frames of finished chunks that a scorer remembers


class Scorer:
    """The autoencoder of a model, and the rewards of `specs`, each under its key."""

    def __init__(self, source: Source, specs: Sequence[RewardSpec], trial: View | None = None) -> None:
        """Rewards are tried on the view `trial`, if one is given. Raises ConfigError for one that fails."""
        torch.set_num_threads(1)
        self.pulse = Pulse()
        family = source.family
        self._specs = {s.key: s for s in specs}
        self._geometry = source.geometry
        self._rewards = {  # first: they may be mistaken
            s.key: building.built(s, source.device, self._part(s.key, trial) if trial else None) for s in specs
        }
        self._decoder = family.Decoder(source) if hasattr(family, "Decoder") else None
        self._autoencoder: Any = None if self._decoder else family.Autoencoder(source)
        self._seen: OrderedDict[str, np.ndarray] = OrderedDict()
        self._alone = RLock()  # held while this scorer computes: only rewards that wait are called side by side

    def run(
        self, request: Look | Compare | Finish, inputs: Mapping[str, Any]
    ) -> tuple[Scored, dict[str, bytes] | None]:
        """The reply to a request, and the files of a finished video by extension. Several threads may call it."""
        match request:
            case Look():
                return self.look(request, inputs), None
            case Compare():
                return self.compare(request, inputs), None
            case Finish():
                # The decoder remembers the chunk before, so nothing else may be decoded between two chunks.
                with self._alone if len(request.captions) > 1 else nullcontext():
                    return self.finish(request, inputs)

    def look(self, request: Look, inputs: Mapping[str, Any]) -> Scored:
        """The rewards of a candidate at its own step, from its noisy latent, its x0 prediction, or frames of that."""
        watch = Stopwatch()
        with self._turn(watch):
            view = self._view(request, inputs, 0, request.sigma)
        found, tokens = self._scores(request.rewards, view, watch)
        preview = b""
        if request.preview and view.frames is not None:
            preview = thumbnails.strip(view.frames)  # for which no search is charged
        return Scored((found,), int(view.frames is not None), watch.seconds, tokens, preview)

    def compare(self, request: Compare, inputs: Mapping[str, Any]) -> Scored:
        """How much the first of two candidates is preferred by rewards that compare."""
        watch, found, tokens = Stopwatch(), dict[str, tuple[float, ...]](), 0
        with self._turn(watch):
            first, second = (self._view(request, inputs, i, sigma) for i, sigma in enumerate(request.sigmas))
        for key in request.rewards:
            with self._turn(watch, key):
                views = self._part(key, first), self._part(key, second)
                rows, paid = answers.preferences(self._specs[key].name, self._rewards[key], [views])
            found[key], tokens = rows[0], tokens + paid
        decodes = sum(view.frames is not None for view in (first, second))
        return Scored((found,), decodes, watch.seconds, tokens)

    def _view(self, request: Look | Compare, inputs: Mapping[str, Any], i: int, sigma: float) -> View:
        """What the rewards of a request read of its candidate number i, at a noise level."""
        state: State = inputs[f"state {i}"]
        asked = [self._rewards[k] for k in request.rewards]
        needs = {r.needs for r in asked}
        link, named = (request.links[0], request.earlier) if isinstance(request, Look) else (None, {})
        x0 = state.x0(sigma) if needs - {"latent"} else None
        frames = None
        if x0 is not None and "frames" in needs and self._decoder is not None:
            frames = self._decoder.frames(state, inputs[f"text {i}"])
        elif x0 is not None and "frames" in needs:
            whole = x0.shape[2]
            most = max(self._specs[k].first or whole for k in request.rewards if self._rewards[k].needs == "frames")
            frames = self._clip(x0[:, :, :most], whole, link, inputs.get("before"))
        read = {name for r in asked for name in earlier(r)}
        before = {k: self._recalled(key, inputs[k]) for k, key in named.items() if k in read}
        return View(
            prompt=request.captions[0],
            sigma=sigma,
            latent=state.noisy(),
            estimate=x0,
            frames=frames,
            obstacles=self._obstacles(request, inputs) if isinstance(request, Look) else (),
            text=_tensor(inputs.get(f"text {i}")),
            first=state.clean_frames,
            before=before.get("before"),
            opening=before.get("opening"),
            fps=self._geometry.fps,
            num_frames=self._length(state.latent.shape[2], frames),
            tags=request.tags,
        )

    def finish(self, request: Finish, inputs: Mapping[str, Any]) -> tuple[Scored, dict[str, bytes]]:
        """The rewards of a finished video's chunks, and the video's files by extension.

        The reply's seconds leave out the rewards and small pictures. Chunks are decoded one after the other, and only
        the frames of the first, the previous and the current chunk are in memory, unless a file of all frames is asked
        for.
        """
        watch, tokens = Stopwatch(), 0
        outputs, n = request.outputs, len(request.captions)
        states: list[State] = series(inputs, "state")
        texts = series(inputs, "text") or [None] * n
        latents, clean = _chunks(states, request.links)
        obstacles = self._obstacles(request, inputs)
        file = None
        if outputs.mp4:
            file = video.Mp4(fps=outputs.fps, scale=outputs.scale, title=outputs.title, comment=outputs.comment)
        shown: list[np.ndarray] = []
        scores = []
        before: np.ndarray | None = None
        opening: np.ndarray | None = None
        middle: np.ndarray | None = None
        chunks = zip(latents, clean, texts, request.captions, request.links, strict=True)
        for latent, clean_frames, text, caption, link in chunks:
            with self._turn(watch):
                if self._decoder is not None:
                    clip = new = self._decoder.frames(states[0], text)
                else:
                    clip, new = self._next(latent, link, before)
                if file is not None:
                    file.add(new)
            if outputs.npy:
                shown.append(new)
            beside = (obstacles, _tensor(text), clean_frames, before, opening, self._geometry.fps)
            length = self._length(latent.shape[2], clip)
            view = View(caption, 0.0, latent, latent, clip, *beside, length, request.tags)
            rewards, paid = self._scores(request.rewards, view, Stopwatch())
            scores.append(rewards)
            tokens += paid
            before, opening = clip, clip if opening is None else opening
            if len(scores) == (n + 1) // 2:
                middle = clip[len(clip) // 2].copy()  # not a view: a clip's frames may be large
        files = {}
        with self._turn(watch):
            if file is not None:
                files["mp4"] = file.close()
            if outputs.safetensors:
                names = ["latents"] if n == 1 else [f"latents_{i:04d}" for i in range(n)]
                files["safetensors"] = save_safetensors(dict(zip(names, latents, strict=True)))
            if outputs.png and before is not None:
                files["png"] = video.png(before[0], scale=outputs.scale, title=outputs.title, comment=outputs.comment)
            if outputs.npy:
                buffer = io.BytesIO()
                np.save(buffer, np.concatenate(shown))
                files["npy"] = buffer.getvalue()
            if request.kept:
                way: list[State] = series(inputs, "kept")
                found = torch.cat([state.noisy() for state in way]).numpy()
                first = way[0].clean_frames > 0
                files["arrow"] = rollout(found, states[-1].latent[0], list(request.kept), first=first)
        if outputs.poster and middle is not None:
            files["poster"] = thumbnails.poster(middle, scale=outputs.scale)
        if outputs.previews and before is not None:
            files["preview"] = thumbnails.sprite(outputs.previews, before)
        return Scored(tuple(scores), n, watch.seconds, tokens), files

    def _next(
        self, latent: torch.Tensor, link: Link | None, before: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The frames of the next finished chunk, uint8 (T, H, W, 3), and those that the chunk before does not show.

        `before` are the frames of the chunk before. A chunk that goes on from latents is decoded with the decoder's
        cache, so that no seam shows.
        """
        if link is None or link.anew:
            clip = self._autoencoder.decode_part(latent, fresh=True)
            return clip, clip if link is None else clip[self._geometry.frames(link.prefix) :]
        assert before is not None
        new = self._autoencoder.decode_part(latent[:, :, link.prefix :], fresh=False)
        return np.concatenate([before[-self._geometry.frames(link.prefix) :], new]), new

    def _clip(self, latent: torch.Tensor, whole: int, link: Link | None, before: State | None) -> np.ndarray:
        """The frames, uint8 (T, H, W, 3), of an x0 prediction of a chunk, or of the first of its `whole` latent frames.

        A chunk that goes on from latents is decoded together with those of the chunk `before`.
        """
        if link is None or link.anew:
            return self._autoencoder.decode(latent)  # type: ignore[no-any-return]
        assert before is not None
        earlier = torch.tensor(before.latent)[:, :, : whole - link.prefix]
        frames = self._autoencoder.decode(torch.cat([earlier, latent], 2))
        return frames[-self._geometry.frames(latent.shape[2]) :]  # type: ignore[no-any-return]

    def _recalled(self, key: str, state: State) -> np.ndarray:
        """The frames, uint8 (T, H, W, 3), of a finished chunk, whose name is `key`.

        The latest chunks' frames are remembered, since many candidates continue one chunk.
        """
        if key not in self._seen:
            self._seen[key] = self._autoencoder.decode(torch.tensor(state.latent))
            while sum(f.nbytes for f in self._seen.values()) > SEEN and len(self._seen) > 1:
                self._seen.popitem(last=False)
        self._seen.move_to_end(key)
        return self._seen[key]

    def _obstacles(self, request: Look | Finish, inputs: Mapping[str, Any]) -> tuple[potential.Points, ...]:
        return potential.group(request.obstacles, [finished(p) for p in series(inputs, "point")])

    def _scores(self, keys: Sequence[str], view: View, watch: Stopwatch) -> tuple[Components, int]:
        """The rewards of a view, and the tokens that they paid for."""
        found, tokens = dict[str, tuple[float, ...]](), 0
        for key in keys:
            with self._turn(watch, key):
                rows, paid = answers.scores(self._specs[key].name, self._rewards[key], [self._part(key, view)])
            found[key], tokens = rows[0], tokens + paid
        return found, tokens

    @contextmanager
    def _turn(self, watch: Stopwatch, key: str = "") -> Iterator[None]:
        """The context in which this scorer computes, or calls the reward of a key: alone, unless the reward waits.

        How long it takes until the turn comes is neither in the pulse nor in the watch.
        """
        waits = key and getattr(self._rewards[key], "waits", False)
        with nullcontext() if waits else self._alone, self.pulse.beat(), watch.running():
            yield

    def _part(self, key: str, view: View) -> View:
        """The view with no more frames than a reward reads."""
        first = self._specs[key].first
        if first is None or view.frames is None:
            return view
        return replace(view, frames=view.frames[: self._geometry.frames(first)])

    def _length(self, latent_frames: int, frames: np.ndarray | None) -> int:
        """The frames of a whole clip; 0 of a pipeline's, before they are decoded."""
        if self._decoder is None:
            return int(self._geometry.frames(latent_frames))
        return 0 if frames is None else len(frames)


def _tensor(text: Any) -> torch.Tensor | None:
    return torch.tensor(text) if isinstance(text, np.ndarray) else None


def _chunks(states: Sequence[State], links: Sequence[Link | None]) -> tuple[list[torch.Tensor], list[int]]:
    """The finished latent of each chunk, (1, C, T, H, W), and the number of each chunk's clean first frames.

    The frames of a queue are cut into chunks that overlap as if each chunk went on from latents of the one before it.
    """
    if getattr(states[-1], "out", None) is None:
        return [torch.tensor(s.latent) for s in states], [s.clean_frames for s in states]
    clip, *others = states
    whole = torch.cat([torch.tensor(clip.latent), *(torch.tensor(s.out) for s in others)], 2)
    prefix = links[-1].prefix if links[-1] else 0
    n = clip.latent.shape[2]
    latents = [whole[:, :, i * (n - prefix) :][:, :, :n].contiguous() for i in range(len(links))]
    return latents, [clip.clean_frames, *([prefix] * (len(links) - 1))]
