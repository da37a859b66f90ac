"""A scorer decodes candidates and computes rewards, so that frames never cross the network."""

import io
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from actors import rewards
from actors.models.source import Source
from actors.rewards import RewardSpec
from actors.sampling import potential
from actors.workers import video
from actors.workers.state import State, finished
from raysearch.engine.protocol import Components, Finish, Look, Scored, series
from raysearch.recipe.long_video import Link
from raysearch.session.dataset import rollout

SEEN = 2**30  # bytes: the frames of finished chunks that a scorer remembers


class Scorer:
    """The autoencoder of a model, and the rewards of `specs`, each under its key."""

    def __init__(self, source: Source, specs: Sequence[RewardSpec], trial: rewards.View | None = None) -> None:
        """Rewards are tried on the view `trial`, if one is given. Raises ConfigError for one that fails."""
        torch.set_num_threads(1)
        family = source.family
        self._names = {s.key: s.name for s in specs}
        self._rewards = {s.key: rewards.built(s, source.device, trial) for s in specs}  # first: they may be mistaken
        self._decoder = family.Decoder(source) if hasattr(family, "Decoder") else None
        self._autoencoder: Any = None if self._decoder else family.Autoencoder(source)
        self._geometry = source.geometry
        self._seen: OrderedDict[str, np.ndarray] = OrderedDict()

    def run(self, request: Look | Finish, inputs: Mapping[str, Any]) -> tuple[Scored, dict[str, bytes] | None]:
        """The reply to a request, and the files of a finished video by extension."""
        return self.look(request, inputs) if isinstance(request, Look) else self.finish(request, inputs)

    def look(self, request: Look, inputs: Mapping[str, Any]) -> tuple[Scored, None]:
        """The rewards of a candidate at its own step, from its noisy latent, its x0 prediction, or frames of that."""
        began = time.perf_counter()
        state: State = inputs["state 0"]
        (link,), (caption,) = request.links, request.captions
        asked = [self._rewards[k] for k in request.rewards]
        needs = {r.needs for r in asked}
        x0 = state.x0(request.sigma) if needs - {"latent"} else None
        frames = None
        if x0 is not None and "frames" in needs and self._decoder is not None:
            frames = self._decoder.frames(state, inputs["text 0"])
        elif x0 is not None and "frames" in needs:
            frames = self._clip(x0, link, inputs.get("before"))
        read = {name for r in asked for name in rewards.earlier(r)}
        earlier = {k: self._recalled(key, inputs[k]) for k, key in request.earlier.items() if k in read}
        view = rewards.View(
            caption,
            request.sigma,
            state.noisy(),
            x0,
            frames,
            self._obstacles(request, inputs),
            _tensor(inputs.get("text 0")),
            state.clean_frames,
            fps=self._geometry.fps,
            **earlier,
        )
        found = self._scores(request.rewards, view)
        return Scored((found,), int(frames is not None), time.perf_counter() - began), None

    def finish(self, request: Finish, inputs: Mapping[str, Any]) -> tuple[Scored, dict[str, bytes]]:
        """The rewards of a finished video's chunks, and the video's files by extension.

        The reply's seconds leave out the rewards. Chunks are decoded one after the other, and only the frames of the
        first, the previous and the current chunk are in memory, unless a file of all frames is asked for.
        """
        began, judging = time.perf_counter(), 0.0
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
        chunks = zip(latents, clean, texts, request.captions, request.links, strict=True)
        for latent, clean_frames, text, caption, link in chunks:
            if self._decoder is not None:
                clip = new = self._decoder.frames(states[0], text)
            else:
                clip, new = self._next(latent, link, before)
            if file is not None:
                file.add(new)
            if outputs.npy:
                shown.append(new)
            start = time.perf_counter()
            beside = (obstacles, _tensor(text), clean_frames, before, opening)
            view = rewards.View(caption, 0.0, latent, latent, clip, *beside, fps=self._geometry.fps)
            scores.append(self._scores(request.rewards, view))
            judging += time.perf_counter() - start
            before, opening = clip, clip if opening is None else opening
        files = {}
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
            files["arrow"] = rollout(found, states[-1].latent[0], list(request.kept), first=way[0].clean_frames > 0)
        return Scored(tuple(scores), n, time.perf_counter() - began - judging), files

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

    def _clip(self, latent: torch.Tensor, link: Link | None, before: State | None) -> np.ndarray:
        """The frames, uint8 (T, H, W, 3), of an x0 prediction of a chunk.

        A chunk that goes on from latents is decoded together with those of the chunk `before`.
        """
        if link is None or link.anew:
            return self._autoencoder.decode(latent)  # type: ignore[no-any-return]
        assert before is not None
        earlier = torch.tensor(before.latent)[:, :, : latent.shape[2] - link.prefix]
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

    def _scores(self, keys: Sequence[str], view: rewards.View) -> Components:
        return {k: rewards.scores(self._names[k], self._rewards[k], [view])[0] for k in keys}


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
