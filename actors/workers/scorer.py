"""A scorer decodes candidates and computes rewards, so that frames never cross the network."""

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from threading import RLock
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from actors.models.source import Source
from actors.rewards import RewardSpec, View, answers, building, earlier
from actors.sampling import potential
from actors.workers import thumbnails, video
from actors.workers.decoding import Clip, Looks, Memory
from actors.workers.pulse import Pulse, Stopwatch
from actors.workers.state import State, finished
from raysearch.engine.protocol import Compare, Components, Finish, Look, Scored, series
from raysearch.recipe.long_video import Link
from raysearch.session.dataset import rollout

SEEN = 2**30  # bytes: the frames of finished chunks that a scorer remembers


# A request, its inputs, the number of the candidate in both, and its noise level.
Asked: TypeAlias = tuple[Look | Compare, Mapping[str, Any], int, float]


@dataclass(frozen=True, eq=False)
class Seen:
    """A look that waits for its turn."""

    request: Look
    inputs: Mapping[str, Any]
    reply: "Future[Scored]" = field(default_factory=Future)


class Scorer:
    """The autoencoder of a model, and the rewards of `specs`, each under its key.

    With `together` looks that wait for their turn and ask for the same rewards are computed as one batch.
    """

    def __init__(
        self, source: Source, specs: Sequence[RewardSpec], trial: View | None = None, *, together: bool = False
    ) -> None:
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
        self._looks = Looks(source, self._autoencoder, self._decoder, together=together)
        self._seen, self._together, self._waiting = Memory(SEEN), together, list[Seen]()
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
        mine = Seen(request, inputs)
        if not self._together or any(self._waits(key) for key in request.rewards):
            return self._looked([mine])[0]
        self._waiting.append(mine)
        with self._alone:  # whoever comes first answers all that wait
            if not mine.reply.done():
                batch = [s for s in self._waiting if s.request.rewards == request.rewards]
                for seen in batch:
                    self._waiting.remove(seen)
                self._answer(batch)
        return mine.reply.result()

    def _answer(self, batch: Sequence[Seen]) -> None:
        """Answer looks together, or one by one if that fails, so that each fails by its own fault alone."""
        try:
            replies = self._looked(batch)
        except BaseException as error:
            if len(batch) == 1:
                batch[0].reply.set_exception(error)
                return
            replies = []
        if not replies:  # the error is gone now, whose frames hold tensors
            for seen in batch:
                self._answer([seen])
            return
        for seen, reply in zip(batch, replies, strict=True):
            seen.reply.set_result(reply)

    def _looked(self, batch: Sequence[Seen]) -> list[Scored]:
        """The replies to looks for the same rewards, which share the seconds that they took."""
        watch = Stopwatch()
        with self._turn(watch):
            views, made = self._views([(s.request, s.inputs, 0, s.request.sigma) for s in batch])
        scores, tokens = self._scores(batch[0].request.rewards, views, watch)
        previews = [
            # For which no search is charged.
            thumbnails.strip(v.frames) if s.request.preview and v.frames is not None else b""
            for s, v in zip(batch, views, strict=True)
        ]
        each = watch.seconds / len(batch)
        found = zip(scores, made, tokens, previews, strict=True)
        return [Scored((components,), decodes, each, paid, preview) for components, decodes, paid, preview in found]

    def compare(self, request: Compare, inputs: Mapping[str, Any]) -> Scored:
        """How much the first of two candidates is preferred by rewards that compare."""
        watch, found, tokens = Stopwatch(), dict[str, tuple[float, ...]](), 0
        with self._turn(watch):
            (first, second), made = self._views([(request, inputs, i, s) for i, s in enumerate(request.sigmas)])
        for key in request.rewards:
            with self._turn(watch, key):
                views = self._part(key, first), self._part(key, second)
                rows, paid = answers.preferences(self._specs[key].name, self._rewards[key], [views])
            found[key], tokens = rows[0], tokens + sum(paid)
        return Scored((found,), sum(made), watch.seconds, tokens)

    def _views(self, asked: Sequence[Asked]) -> tuple[list[View], list[int]]:
        """What the same rewards read of candidates, and how many decodes were made for each."""
        rewards = asked[0][0].rewards
        needs = {self._rewards[k].needs for k in rewards}
        x0s = [inputs[f"state {i}"].x0(sigma) if needs - {"latent"} else None for _, inputs, i, sigma in asked]
        frames, made = list[np.ndarray | None]([None] * len(asked)), [0] * len(asked)
        if "frames" in needs:
            clips = [self._clip(a, x0) for a, x0 in zip(asked, x0s, strict=True) if x0 is not None]
            frames[:], made = self._looks.frames(clips)
        return [self._view(*row) for row in zip(asked, x0s, frames, strict=True)], made

    def _clip(self, asked: Asked, x0: torch.Tensor) -> Clip:
        """What is decoded of a candidate: of its x0 prediction as many latent frames as one of the rewards reads.

        A chunk that goes on from latents is decoded together with those of the chunk before.
        """
        request, inputs, i, sigma = asked
        if self._decoder is not None:
            return Clip((inputs[f"state {i}"], inputs[f"text {i}"]))
        whole, rough = x0.shape[2], sigma > 0
        most = max(self._specs[k].first or whole for k in request.rewards if self._rewards[k].needs == "frames")
        x0, frames = x0[:, :, :most], self._geometry.frames(most)
        link = request.links[0] if isinstance(request, Look) else None
        if link is not None and not link.anew:
            earlier = torch.tensor(inputs["before"].latent)[:, :, : whole - link.prefix]
            x0 = torch.cat([earlier, x0], 2)
        return Clip(x0, frames, rough)

    def _view(self, asked: Asked, x0: torch.Tensor | None, frames: np.ndarray | None) -> View:
        """What rewards read of a candidate with this x0 prediction and these frames of it."""
        request, inputs, i, sigma = asked
        state: State = inputs[f"state {i}"]
        read = {name for k in request.rewards for name in earlier(self._rewards[k])}
        named = request.earlier if isinstance(request, Look) else {}
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
            (rewards,), (paid,) = self._scores(request.rewards, [view], Stopwatch())
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

    def _recalled(self, key: str, state: State) -> np.ndarray:
        """The frames, uint8 (T, H, W, 3), of a finished chunk, whose name is `key`.

        The latest chunks' frames are remembered, since many candidates continue one chunk.
        """
        frames = self._seen.recall(key)
        return self._seen.keep(key, self._autoencoder.decode(torch.tensor(state.latent)) if frames is None else frames)

    def _obstacles(self, request: Look | Finish, inputs: Mapping[str, Any]) -> tuple[potential.Points, ...]:
        return potential.group(request.obstacles, [finished(p) for p in series(inputs, "point")])

    def _scores(
        self, keys: Sequence[str], views: Sequence[View], watch: Stopwatch
    ) -> tuple[list[Components], list[int]]:
        """The rewards of each view, and the tokens that they paid for it."""
        found: list[Components] = [{} for _ in views]
        tokens = [0] * len(views)
        for key in keys:
            with self._turn(watch, key):
                rows, paid = answers.scores(
                    self._specs[key].name, self._rewards[key], [self._part(key, v) for v in views]
                )
            for row, components in zip(rows, found, strict=True):
                components[key] = row
            tokens = [a + b for a, b in zip(tokens, paid, strict=True)]
        return found, tokens

    def _waits(self, key: str) -> bool:
        return bool(getattr(self._rewards[key], "waits", False))

    @contextmanager
    def _turn(self, watch: Stopwatch, key: str = "") -> Iterator[None]:
        """The context in which this scorer computes, or calls the reward of a key: alone, unless the reward waits.

        How long it takes until the turn comes is neither in the pulse nor in the watch.
        """
        with nullcontext() if key and self._waits(key) else self._alone, self.pulse.beat(), watch.running():
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
