"""A scorer: a bundle of rewards over a view of the candidate. It decodes; frames never cross the network."""

import io
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from actors import rewards
from actors.models import family, given_frames, with_first
from actors.rewards import RewardSpec
from actors.sampling import potential
from actors.workers import video
from raysearch.session.dataset import rollout

SEEN = 2**30  # bytes of finished chunks' frames that a scorer remembers


class Scorer:
    def __init__(self, folder: str, specs: Sequence[RewardSpec], *, dtype: str, device: str) -> None:
        torch.set_num_threads(1)
        models = family(Path(folder))
        self._autoencoder = models.Autoencoder(Path(folder), dtype=dtype, device=device)
        self._geometry = models.Geometry.of(Path(folder))
        self._seen: OrderedDict[str, np.ndarray] = OrderedDict()
        self._rewards = {s.key: rewards.find(s.name)(**s.arguments) for s in specs}
        for reward in self._rewards.values():
            if hasattr(reward, "to"):
                reward.to(device)

    def score(
        self, arguments: dict[str, Any], payload: dict[str, Any], text: Any, *others: Any
    ) -> tuple[dict[str, Any], None]:
        """Rewards of a candidate at its own point: ({rewards: [key -> components], decodes, seconds}, None).

        `text` is its caption's embedding, for rewards that look at it. The last two of `others` are the states of the
        chunk before and of the first one, of a long video; those before them are obstacles' points.
        """
        began = time.perf_counter()
        *points, before, opening = others
        keys, (link,), (prompt,) = (arguments[k] for k in ("rewards", "links", "prompts"))
        needs = {self._rewards[k].needs for k in keys}
        estimate = preview(payload, arguments["sigma"]) if needs - {"latent"} else None
        frames = self._clip(estimate, link, before) if estimate is not None and "frames" in needs else None
        read = {name for k in keys for name in rewards.earlier(self._rewards[k])}
        earlier = [
            self._recalled(*c) if name in read else None
            for name, *c in zip(("before", "opening"), arguments["earlier"], (before, opening), strict=True)
        ]
        view = rewards.View(
            prompt,
            arguments["sigma"],
            noisy(payload),
            estimate,
            frames,
            self._obstacles(arguments, points),
            _tensor(text),
            _given(payload),
            *earlier,
        )
        meta = {"decodes": int(frames is not None), "rewards": [self._scores(keys, view)]}
        return meta | {"seconds": time.perf_counter() - began}, None

    def finish(self, arguments: dict[str, Any], *inputs: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Rewards of a video's chunks, and its files by extension; the seconds leave the judging out.

        The inputs are the finished states of its `parts`, the chunks' captions' embeddings, obstacles' points, and the
        states of those `kept` on the way. Chunks are decoded one after the other, and what was decoded is not kept.
        """
        began, judging = time.perf_counter(), 0.0
        outputs, kept, keys, links = (arguments[k] for k in ("outputs", "kept", "rewards", "links"))
        n, parts = len(arguments["prompts"]), arguments["parts"]
        payloads, texts, points = inputs[:parts], inputs[parts : parts + n], inputs[parts + n : len(inputs) - len(kept)]
        latents, given = _chunks(payloads, links)
        obstacles = self._obstacles(arguments, points)
        file = video.Mp4(fps=outputs["fps"], scale=outputs["scale"]) if outputs["mp4"] else None
        shown: list[np.ndarray] = []
        scores = []
        before: np.ndarray | None = None
        opening: np.ndarray | None = None
        chunks = zip(latents, given, texts, arguments["prompts"], links, strict=True)
        for latent, first, text, prompt, link in chunks:
            clip, new = self._next(latent, link, before)
            if file is not None:
                file.add(new)
            if outputs["npy"]:
                shown.append(new)
            start = time.perf_counter()
            beside = (obstacles, _tensor(text), first, before, opening)
            scores.append(self._scores(keys, rewards.View(prompt, 0.0, latent, latent, clip, *beside)))
            judging += time.perf_counter() - start
            before, opening = clip, clip if opening is None else opening
        files = {}
        if file is not None:
            files["mp4"] = file.close()
        if outputs["safetensors"]:
            names = ["latents"] if n == 1 else [f"latents_{i:04d}" for i in range(n)]
            files["safetensors"] = save_safetensors(dict(zip(names, latents, strict=True)))
        if outputs["npy"]:
            buffer = io.BytesIO()
            np.save(buffer, np.concatenate(shown))
            files["npy"] = buffer.getvalue()
        if kept:
            way = inputs[len(inputs) - len(kept) :]
            found = torch.cat([noisy(state) for state in way]).numpy()
            files["arrow"] = rollout(found, payloads[-1]["latent"][0], kept, first=_given(way[0]) > 0)
        return {"rewards": scores, "decodes": n, "seconds": time.perf_counter() - began - judging}, files

    def _next(
        self, latent: torch.Tensor, link: dict[str, Any] | None, before: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The frames of the next finished chunk, and those of them that are new: uint8 (T, H, W, 3).

        One that goes on with latents is decoded with the decoder's cache, so that there is no seam.
        """
        if link is None or link["anew"]:
            clip = self._autoencoder.decode_on(latent, fresh=True)
            return clip, clip if link is None else clip[self._geometry.frames(link["prefix"]) :]
        assert before is not None
        new = self._autoencoder.decode_on(latent[:, :, link["prefix"] :], fresh=False)
        return np.concatenate([before[-self._geometry.frames(link["prefix"]) :], new]), new

    def _clip(self, latent: torch.Tensor, link: dict[str, Any] | None, before: Any) -> np.ndarray:
        """The frames of a chunk that may be thrown away; where it goes on with latents those are decoded before it."""
        if link is None or link["anew"]:
            return self._autoencoder.decode(latent)  # type: ignore[no-any-return]
        earlier = torch.tensor(before["latent"])[:, :, : latent.shape[2] - link["prefix"]]
        frames = self._autoencoder.decode(torch.cat([earlier, latent], 2))
        return frames[-self._geometry.frames(latent.shape[2]) :]  # type: ignore[no-any-return]

    def _recalled(self, key: str | None, state: Any) -> np.ndarray | None:
        """The frames of a finished chunk; the latest are remembered, since many candidates continue one chunk."""
        if key is None:
            return None
        if key not in self._seen:
            self._seen[key] = self._autoencoder.decode(torch.tensor(state["latent"]))
            while sum(f.nbytes for f in self._seen.values()) > SEEN and len(self._seen) > 1:
                self._seen.popitem(last=False)
        self._seen.move_to_end(key)
        return self._seen[key]

    def _obstacles(self, arguments: dict[str, Any], points: Sequence[Any]) -> tuple[potential.Points, ...]:
        return potential.group(arguments["obstacles"], [finished(p) for p in points])

    def _scores(self, keys: Sequence[str], view: rewards.View) -> dict[str, list[float]]:
        return {k: [float(c) for c in self._rewards[k]([view])[0]] for k in keys}


def _tensor(text: Any) -> torch.Tensor | None:
    return None if text is None else torch.tensor(text)


def _chunks(
    payloads: Sequence[dict[str, Any]], links: Sequence[dict[str, Any] | None]
) -> tuple[list[torch.Tensor], list[int]]:
    """The finished latents of a video's chunks, and how many of each one's first frames are given.

    Those of a queue overlap as if each went on with the latents of the one before it.
    """
    if "out" not in payloads[-1]:
        return [torch.tensor(p["latent"]) for p in payloads], [_given(p) for p in payloads]
    clip, *others = payloads
    whole = torch.cat([torch.tensor(clip["latent"]), *(torch.tensor(p["out"]) for p in others)], 2)
    prefix = links[-1]["prefix"] if links[-1] else 0
    n = clip["latent"].shape[2]
    latents = [whole[:, :, i * (n - prefix) :][:, :, :n].contiguous() for i in range(len(links))]
    return latents, [_given(clip), *([prefix] * (len(links) - 1))]


def _given(payload: dict[str, Any]) -> int:
    return given_frames(payload.get("first"))


def _first(payload: dict[str, Any]) -> torch.Tensor | None:
    return torch.tensor(payload["first"]) if _given(payload) else None


def finished(point: Any) -> torch.Tensor:
    """The latent of an obstacle's point: a finished candidate's state, or what the encoder made of a file."""
    return torch.tensor(point["latent"] if isinstance(point, dict) else point)


def noisy(payload: dict[str, Any]) -> torch.Tensor:
    """The latent as the model sees it: given first frames stay clean; of a queue the tail's window."""
    latent = torch.tensor(payload["latent"])
    if "levels" in payload:
        latent = torch.cat([latent, torch.tensor(payload["queue"])], 2)[:, :, -latent.shape[2] :]
    return with_first(latent, _first(payload))


def preview(payload: dict[str, Any], sigma: float) -> torch.Tensor:
    """The one-step x0 estimate x - sigma v at the candidate's own point; the latent itself where there is no noise."""
    if sigma == 0:
        return torch.tensor(payload["latent"])
    levels = torch.tensor(payload["levels"]).view(-1, 1, 1) if "levels" in payload else sigma
    latent = noisy(payload) if "levels" in payload else torch.tensor(payload["latent"])
    estimate = latent - levels * torch.tensor(payload["velocity"])
    return with_first(estimate, _first(payload))
