"""A scorer: a bundle of rewards over a view of the candidate. It decodes; frames never cross the network."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from actors import potential, rewards, video
from actors.models import family, with_first
from raysearch.dataset import rollout


@dataclass(frozen=True)
class RewardSpec:
    """A reward to build: `key` names it in calls."""

    key: str
    name: str
    arguments: dict[str, Any]


class Scorer:
    def __init__(self, folder: str, specs: Sequence[RewardSpec], *, dtype: str, device: str) -> None:
        torch.set_num_threads(1)
        self._autoencoder = family(Path(folder)).Autoencoder(Path(folder), dtype=dtype, device=device)
        self._rewards = {s.key: rewards.find(s.name)(**s.arguments) for s in specs}
        for reward in self._rewards.values():
            if hasattr(reward, "to"):
                reward.to(device)

    def score(
        self, arguments: dict[str, Any], payload: dict[str, Any], text: Any, *points: Any
    ) -> tuple[dict[str, Any], None]:
        """Rewards of a candidate at its own point: ({rewards: key -> components, decodes, seconds}, None).

        `text` is its caption's embedding, for rewards that look at it.
        """
        began = time.perf_counter()
        keys = arguments["rewards"]
        needs = {self._rewards[k].needs for k in keys}
        estimate = preview(payload, arguments["sigma"]) if needs - {"latent"} else None
        frames = self._autoencoder.decode(estimate) if "frames" in needs else None
        scores = self._scores(keys, arguments, payload, text, points, estimate, frames)
        meta = {"rewards": scores, "decodes": int(frames is not None), "seconds": time.perf_counter() - began}
        return meta, None

    def finish(
        self, arguments: dict[str, Any], payload: dict[str, Any], text: Any, *points: Any
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Rewards of a finished latent, and its files by extension; the seconds leave the judging out.

        The last of `points` are the states of those `kept` on its way.
        """
        began = time.perf_counter()
        outputs, kept = arguments["outputs"], arguments["kept"]
        points, way = points[: len(points) - len(kept)], points[len(points) - len(kept) :]
        latent = preview(payload, 0.0)
        frames = self._autoencoder.decode(latent)
        judging = time.perf_counter()
        scores = self._scores(arguments["rewards"], arguments, payload, text, points, latent, frames)
        judging = time.perf_counter() - judging
        files = {}
        if outputs["mp4"]:
            files["mp4"] = video.mp4(frames, fps=outputs["fps"], scale=outputs["scale"])
        if outputs["safetensors"]:
            files["safetensors"] = save_safetensors({"latents": torch.tensor(payload["latent"])})
        if outputs["npy"]:
            buffer = io.BytesIO()
            np.save(buffer, frames)
            files["npy"] = buffer.getvalue()
        if kept:
            latents = torch.cat([noisy(state) for state in way]).numpy()
            files["arrow"] = rollout(latents, latent[0].numpy(), kept, first="first" in way[0])
        return {"rewards": scores, "decodes": 1, "seconds": time.perf_counter() - began - judging}, files

    def _scores(
        self,
        keys: Sequence[str],
        arguments: dict[str, Any],
        payload: dict[str, Any],
        text: Any,
        points: Sequence[Any],
        estimate: torch.Tensor | None,
        frames: np.ndarray | None,
    ) -> dict[str, list[float]]:
        view = rewards.View(
            arguments["prompt"].text,
            arguments["sigma"],
            noisy(payload),
            estimate,
            frames,
            potential.group(arguments["obstacles"], [finished(p) for p in points]),
            None if text is None else torch.tensor(text),
            "first" in payload,
        )
        views = [view]
        return {k: [float(c) for c in self._rewards[k](views)[0]] for k in keys}


def finished(point: Any) -> torch.Tensor:
    """The latent of an obstacle's point: a finished candidate's state, or what the encoder made of a file."""
    return torch.tensor(point["latent"] if isinstance(point, dict) else point)


def noisy(payload: dict[str, Any]) -> torch.Tensor:
    """The latent as the model sees it: a given first frame stays clean."""
    first = payload.get("first")
    return with_first(torch.tensor(payload["latent"]), None if first is None else torch.tensor(first))


def preview(payload: dict[str, Any], sigma: float) -> torch.Tensor:
    """The one-step x0 estimate x - sigma v at the candidate's own point; the latent itself where there is no noise."""
    latent = torch.tensor(payload["latent"])
    if sigma == 0:
        return latent
    estimate = latent - sigma * torch.tensor(payload["velocity"])
    first = payload.get("first")
    return with_first(estimate, None if first is None else torch.tensor(first))
