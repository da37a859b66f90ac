"""How well does each latent reward say, from the noisy latent, which of a caption's rollouts becomes the better video?

    python -m raysearch collect configs/held_out_latents.yaml
    python tests/benchmarks/latent_rewards.py --dataset runs/held_out_latents/dataset

Pairs: the same held-out caption, different seeds, the exact verifier's grades at least 0.1 apart (others are ties).
Intervals are 95%, by raysearch.bootstrap, drawing captions alone: each has noises of its own. The baseline decodes the
x0 estimate at the same level and asks the verifier; it pays a guided evaluation and a decode. Then Pearson's r of the
sums, within captions and over all rollouts: a reward that is to stop a search must compare between captions. Then what
choosing one of n rollouts at a level gains, over all choices of n of a caption's, and what it costs; and milliseconds
per candidate on one thread.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from bench import TINY, Report, json_option

from actors.models.source import Source
from actors.models.wan import Autoencoder, TextEncoder, Transformer
from actors.rewards import View, latent_reward, pavrm
from actors.tiny.verifier import Verifier
from actors.training.pairs import agreement
from raysearch.bootstrap import draws, interval
from raysearch.session.dataset import SPLITS, shards_of

NAMES = ("VQ", "MQ", "TA")
GUIDANCE, LENGTH, BATCH = 2.0, 80, 32


def read(folder: Path) -> pa.Table:
    shards = shards_of(folder, *SPLITS)
    if not shards:
        sys.exit(f"{folder} holds no dataset; see the first lines of this file")
    return pa.concat_tables(pq.read_table(s) for s in shards)


class Rewards:
    """Scores (n, 3) of latents at one level, in batches; embeddings are made once."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.encoder, self.known = TextEncoder(Source(TINY)), {}
        self.model = Transformer(Source(TINY))
        self.decoder, self.verifier = Autoencoder(Source(TINY)), Verifier()
        net, other = pavrm.load(args.pavrm), latent_reward.load(args.latent)
        self.nets: dict[str, Callable] = {
            "PAVRM": lambda x, s, p: net(x, s, self.text(p)),
            "latent reward": other,
            "verifier on x0 prediction": self.preview,
        }

    def text(self, prompts: list[str]) -> torch.Tensor:
        for p in set(prompts) - self.known.keys():
            self.known[p] = torch.tensor(self.encoder(p, LENGTH))
        return torch.cat([self.known[p] for p in prompts])

    def estimate(self, x: torch.Tensor, sigmas: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        first = [None] * len(x)
        v, free = (self.model(x, 1000 * sigmas, t, first) for t in (self.text(prompts), self.text([""] * len(x))))
        return x - sigmas.view(-1, 1, 1, 1, 1) * (free + GUIDANCE * (v - free))

    def preview(self, x: torch.Tensor, sigmas: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        clips = [self.decoder.decode(e) for e in self.estimate(x, sigmas, prompts).split(1)]
        views = [View(p, 0.0, frames=f) for p, f in zip(prompts, clips, strict=True)]
        return torch.tensor(self.verifier(views)[:, :3])

    @torch.inference_mode()
    def scores(self, name: str, rows: pa.Table) -> np.ndarray:
        latents = rows["latent"].combine_chunks().to_numpy_ndarray().astype(np.float32)
        prompts, sigmas = rows["prompt"].to_pylist(), rows["sigma"].to_numpy().astype(np.float32)
        found = []
        for i in range(0, len(rows), BATCH):
            batch = slice(i, i + BATCH)
            found.append(self.nets[name](torch.tensor(latents[batch]), torch.tensor(sigmas[batch]), prompts[batch]))
        return torch.cat(found).numpy()


def agreed(counts: dict[object, tuple[float, int, int]]) -> tuple[float, float, int, float]:
    """Accuracy, half of its 95% interval, pairs, share of ties, of counts by caption."""
    table = np.array(list(counts.values()), dtype=float)
    drawn = draws(table, list(counts))
    with np.errstate(invalid="ignore"):  # a draw without a pair says nothing
        low, high = interval(drawn[:, 0] / drawn[:, 1])
    right, pairs, ties = table.sum(0)
    return right / max(pairs, 1), (high - low) / 2, int(pairs), ties / max(pairs + ties, 1)


def accuracy(rewards: Rewards, table: pa.Table, levels: list[float], report: Report) -> None:
    steps = dict(zip(table["step"].to_pylist(), table["sigma"].to_pylist(), strict=True))
    chosen = [min(steps, key=lambda s: abs(steps[s] - level)) for level in levels]
    lines, grades = [], {}
    sums: dict[str, list[np.ndarray]] = {name: [] for name in rewards.nets}
    for name in rewards.nets:
        cells: dict[str, list[str]] = {c: [] for c in (*NAMES, "sum")}
        for step in chosen:
            rows = table.filter(pa.compute.equal(table["step"], step))
            grades = {c: rows[c].to_numpy() for c in NAMES}
            scores = rewards.scores(name, rows)
            each = dict(zip(NAMES, scores.T, strict=True))
            each["sum"], grades["sum"] = scores.sum(1), sum(grades[c] for c in NAMES)
            sums[name].append(each["sum"])
            for c, values in each.items():
                right, half, pairs, ties = agreed(agreement(values, grades[c], rows["prompt"].to_pylist()))
                cells[c].append(f"{100 * right:.1f} ± {100 * half:.1f}%")
        lines += [[name, c, *texts] for c, texts in cells.items()]
    lines.append(["chance", "", *["50%"] * len(chosen)])
    report.table("accuracy", " | ".join(["reward", "grade", *(f"sigma {steps[s]:.2f}" for s in chosen)]), lines)
    lines = []
    for c in (*NAMES, "sum"):
        counts = agreement(np.zeros(len(rows)), grades[c], rows["prompt"].to_pylist())
        _, _, pairs, ties = agreed(counts)
        lines.append([c, str(len(counts)), str(pairs), f"{ties:.0%}"])
    report.table("pairs", "grade | captions | pairs a level | ties besides", lines)
    correlations(sums, grades["sum"], rows["prompt"].to_pylist(), [steps[s] for s in chosen], report)
    choices(sums, grades["sum"], rows["prompt"].to_pylist(), [(steps[s], s) for s in chosen], report)


def correlations(
    sums: dict[str, list[np.ndarray]], grade: np.ndarray, prompts: list[str], sigmas: list[float], report: Report
) -> None:
    """Pearson's r of each reward's sum with the grade's at each level: within captions, and over all rollouts."""
    places = {p: i for i, p in enumerate(dict.fromkeys(prompts))}
    group = np.array([places[p] for p in prompts])

    def within(x: np.ndarray) -> np.ndarray:
        return x - (np.bincount(group, x) / np.bincount(group))[group]

    def r(x: np.ndarray, y: np.ndarray) -> str:
        moments = np.stack([x, y, x * x, y * y, x * y], 1)

        def pearson(m: np.ndarray) -> np.ndarray:
            mx, my, xx, yy, xy = np.moveaxis(m, -1, 0)
            with np.errstate(divide="ignore", invalid="ignore"):  # where scores or grades are all equal there is no r
                return (xy - mx * my) / np.sqrt((xx - mx * mx) * (yy - my * my))

        low, high = interval(pearson(draws(moments, prompts)))
        return f"{pearson(moments.mean(0)):.2f} [{low:.2f}, {high:.2f}]"

    lines = []
    for name, scores in sums.items():
        lines.append([name, "within captions", *(r(within(s), within(grade)) for s in scores)])
        lines.append([name, "over all", *(r(s, grade) for s in scores)])
    report.table("correlation", " | ".join(["reward", "r", *(f"sigma {s:.2f}" for s in sigmas)]), lines)


def choices(
    sums: dict[str, list[np.ndarray]],
    grade: np.ndarray,
    prompts: list[str],
    at: list[tuple[float, int]],
    report: Report,
) -> None:
    """The judged gain of the best of n by a reward, of that of the verifier's own best of 4; rows are rollouts."""
    groups: dict[str, list[int]] = {}
    for i, p in enumerate(prompts):
        groups.setdefault(p, []).append(i)

    def gains(score: np.ndarray, n: int) -> dict[str, float]:
        """Mean over all sets of n, for each caption that has as many."""
        found = {}
        for p, rows in groups.items():
            sets = np.array(list(itertools.combinations(rows, n)), dtype=int)
            if len(sets):
                best = np.take_along_axis(sets, score[sets].argmax(1)[:, None], 1)
                found[p] = grade[best].mean() - grade[rows].mean()
        return found

    def mean(gained: dict[str, float]) -> tuple[float, np.ndarray]:
        values = np.array(list(gained.values()))
        return values.mean(), draws(values, list(gained))

    if not (whole := gains(grade, 4)):
        return
    most, drawn_most = mean(whole)
    print(f"\nshare of the gain of the verifier's best of 4, which is {most:.3f} over {len(whole)} captions")
    lines = []
    for name, scores in sums.items():
        for n in range(2, max(map(len, groups.values())) + 1):
            cells = []
            for score in scores:
                gained, drawn = mean(gains(score, n))
                low, high = interval(drawn / drawn_most)
                cells.append(f"{gained / most:.2f} ± {(high - low) / 2:.2f}")
            lines.append([name, str(n), *cells])
    head = ["reward", "n", *(f"sigma {sigma:.2f} (step {step})" for sigma, step in at)]
    report.table("choices", " | ".join(head), lines)


@torch.inference_mode()
def costs(rewards: Rewards, table: pa.Table, n: int, steps: int, report: Report) -> None:
    """Medians of n, in turns."""
    x = torch.tensor(table["latent"].combine_chunks().to_numpy_ndarray()[:1].astype(np.float32))
    s, prompts = torch.tensor([0.8]), table["prompt"].to_pylist()[:1]
    view = [View(prompts[0], 0.0, frames=rewards.decoder.decode(x))]
    work = {name: (lambda net=net: net(x, s, prompts)) for name, net in rewards.nets.items() if net != rewards.preview}
    guided = "one guided denoising step"
    work[guided] = lambda: rewards.estimate(x, s, prompts)
    decode, judge = "decode", "verifier"
    work |= {decode: lambda: rewards.decoder.decode(x), judge: lambda: rewards.verifier(view)}
    times: dict[str, list[float]] = {k: [] for k in work}
    for _ in range(n):
        for k, call in work.items():
            began = time.perf_counter()
            call()
            times[k].append(1000 * (time.perf_counter() - began))
    ms = {k: float(np.median(v)) for k, v in times.items()}
    looked = ms[decode] + ms[judge]
    print(f"\none thread, medians of {n}")
    shown = [(k, ms[k]) for k in (*rewards.nets, guided) if k in ms]
    shown.append(("x0 prediction, decode and verifier", ms[guided] + looked))
    shown.append((f"full rollout of {steps} steps, decode and verifier", steps * ms[guided] + looked))
    lines = [[k, f"{value:.1f}", f"{value / ms[guided]:.2f}"] for k, value in shown]
    report.table("costs", "what | ms a candidate | in guided steps", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--pavrm", type=Path, default=pavrm.ASSETS)
    parser.add_argument("--latent", type=Path, default=latent_reward.ASSETS)
    parser.add_argument("--levels", type=float, nargs="*", default=[0.9, 0.8, 0.6, 0.4, 0.2])
    names = ("PAVRM", "latent reward", "verifier on x0 prediction")
    parser.add_argument("--rewards", nargs="+", choices=names, default=names, help="rows of the table")
    parser.add_argument("--times", type=int, default=20)
    json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table, rewards = read(args.dataset), Rewards(args)
    rewards.nets = {name: rewards.nets[name] for name in args.rewards}
    report = Report(args.json)
    accuracy(rewards, table, args.levels, report)
    if args.times:
        costs(rewards, table, args.times, steps=30, report=report)


if __name__ == "__main__":
    main()
