"""What do the video model's features know of a rollout's end, by layer and noise level? (Mi et al., Figure 3)

    python tests/benchmarks/probe.py --dataset runs/collect/dataset

Features are means and deviations over the tokens behind each block, of the shipped model (frozen) and of PAVRM's
fine-tuned copy. On each, a linear Bradley-Terry model is fitted to the train split's pairs of rollouts of a caption and
noise level, one for each layer and all levels, and measured on the test split's: how often it says which sum of grades
is higher, of pairs at least 0.1 apart.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from bench import TINY, Report, json_option

from actors.models.source import Source
from actors.models.wan import TextEncoder
from actors.rewards import pavrm
from actors.training.pairs import MARGIN, accuracy, agreement
from raysearch.session.dataset import shards_of

LEVELS = (0.9, 0.8, 0.6, 0.4, 0.15)


def rows_of(folder: Path, split: str, captions: int) -> pa.Table:
    table = pa.concat_tables(pq.read_table(p) for p in shards_of(folder, split))
    chosen = list(dict.fromkeys(table["prompt"].to_pylist()))[:captions]
    steps = dict(zip(table["step"].to_pylist(), table["sigma"].to_pylist(), strict=True))
    near = {min(steps, key=lambda s: abs(steps[s] - level)) for level in LEVELS}
    keep = pa.compute.and_(
        pa.compute.is_in(table["prompt"], pa.array(chosen)), pa.compute.is_in(table["step"], pa.array(sorted(near)))
    )
    return table.filter(keep)


@torch.inference_mode()
def features(net: pavrm.PavrmNet, table: pa.Table, text: dict[str, torch.Tensor]) -> torch.Tensor:
    """(layers, n, 2 x width)."""
    latents = torch.tensor(table["latent"].combine_chunks().to_numpy_ndarray().astype(np.float32))
    sigmas, prompts = torch.tensor(table["sigma"].to_numpy()).float(), table["prompt"].to_pylist()
    found = []
    for i in range(0, len(table), 64):
        b = slice(i, i + 64)
        layers = net.features(latents[b], sigmas[b], torch.cat([text[p] for p in prompts[b]]))
        found.append(torch.stack([torch.cat([x.mean(1), x.std(1)], -1) for x in layers]))
    return torch.cat(found, 1)


def pairs(groups: list[tuple[str, int]], grades: np.ndarray) -> np.ndarray:
    """Indices (n, 2): the better one first."""
    order: dict[tuple[str, int], list[int]] = {}
    for i, g in enumerate(groups):
        order.setdefault(g, []).append(i)
    found = []
    for members in order.values():
        for i, a in enumerate(members):
            for b in members[i + 1 :]:
                if abs(grades[a] - grades[b]) >= MARGIN:
                    found.append((a, b) if grades[a] > grades[b] else (b, a))
    return np.array(found)


def fitted(x: torch.Tensor, ij: np.ndarray, weight_decay: float = 1e-2) -> torch.Tensor:
    """The direction whose differences tell pairs apart: logistic regression."""
    d = x[ij[:, 0]] - x[ij[:, 1]]
    w = torch.zeros(x.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = torch.nn.functional.softplus(-(d @ w)).mean() + weight_decay * w.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return w.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--pavrm", type=Path, default=pavrm.ASSETS)
    parser.add_argument("--captions", type=int, default=300, help="of the train split")
    json_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, test = rows_of(args.dataset, "train", args.captions), rows_of(args.dataset, "test", 10**6)
    encoder = TextEncoder(Source(TINY))
    text = {p: torch.tensor(encoder(p, 80)) for t in (train, test) for p in set(t["prompt"].to_pylist())}
    tuned = pavrm.load(args.pavrm)
    blocks = pavrm.WanTransformer3DModel.load_config(TINY / "transformer")["num_layers"]
    nets = {"frozen": pavrm.of_model(TINY, blocks=blocks).eval(), "fine-tuned": tuned}
    levels = sorted(dict(zip(test["step"].to_pylist(), test["sigma"].to_pylist(), strict=True)).items())
    print(f"{len(train)} latents to fit, {len(test)} to test")
    rows = []
    for name, net in nets.items():
        sides = []
        for table in (train, test):
            grades = sum(table[c].to_numpy() for c in ("VQ", "MQ", "TA"))
            groups = list(zip(table["prompt"].to_pylist(), table["step"].to_pylist(), strict=True))
            sides.append((features(net, table, text), grades, groups))
        (x, r, g), (x_test, r_test, g_test) = sides
        ij = pairs(g, r)
        for layer in range(len(x)):
            mean, std = x[layer].mean(0), x[layer].std(0) + 1e-6
            w = fitted((x[layer] - mean) / std, ij)
            counts = agreement((((x_test[layer] - mean) / std) @ w).numpy(), r_test, g_test)
            cells = [accuracy([n for (_, s), n in counts.items() if s == step]) for step, _ in levels]
            cells.append(accuracy(list(counts.values())))
            rows.append([name, str(layer + 1), *(f"{c:.1%}" for c in cells)])
    head = ["features", "layer", *(f"sigma {sigma:.2f}" for _, sigma in levels), "all"]
    Report(args.json).table("probe", " | ".join(head), rows)


if __name__ == "__main__":
    main()
