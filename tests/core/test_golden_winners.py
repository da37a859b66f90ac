"""Winners and costs of whole runs on fakes, as they were before the house was put in order; see golden_winners.txt."""

import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from fakes import unequal_fleet, unlucky

from raysearch.config import config as configuration
from raysearch.config.config import SDE
from raysearch.session.plan import Plan
from raysearch.session.session import Session
from raysearch.testing import FakeBackend, FakeFleet, run_virtual, virtual_now

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden_winners.txt"
RUNS = {
    "every_policy": [],
    "long": ["prompts_file=configs/held_out_long_one.jsonl", "seeds=[0,1]"],
    "long_ablations": ["prompts_file=configs/held_out_long_one.jsonl"],
    "fifo": ["prompts_file=configs/held_out_long_one.jsonl", "seeds=[0,1]"],
}


class Backend(FakeBackend):
    """Fakes whose samplers are stochastic where an arm's is."""

    def prepare(self, config, arms, begun=None) -> Plan:
        plans = (FakeBackend(self.fake, stochastic=a.sampler.name in SDE).prepare(config, [a], begun) for a in arms)
        return Plan(tuple(arm for plan in plans for arm in plan.arms))


def winners(name: str, path: Path, fleet: FakeFleet | None = None) -> list[str]:
    config = configuration.load(ROOT / "configs" / f"{name}.yaml", RUNS[name])
    run_virtual(Session(config, Backend(fleet or FakeFleet()), run_dir=path, clock=virtual_now).run())
    rows = pq.read_table(path / "searches.parquet").to_pylist()
    costs = ("status", "nfe", "decodes", "reward_calls", "reward_search")
    return [f"{name} {r['search_id']} {r['winner']} {' '.join(f'{k}={r[k]}' for k in costs)}" for r in rows]


def test_winners_and_costs_are_the_golden_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # prompts name their pictures from here
    found = [line for name in RUNS for line in winners(name, tmp_path / name)]
    assert found == GOLDEN.read_text().splitlines()


def test_a_queue_on_an_unlucky_fleet_has_the_golden_winners(tmp_path, monkeypatch):
    """A leg that goes over the border of two chunks is told of both captions, and of no other."""
    monkeypatch.chdir(ROOT)
    found = winners("fifo", tmp_path / "run", unlucky(unequal_fleet(3, 2, 0)))
    assert found == [line for line in GOLDEN.read_text().splitlines() if line.startswith("fifo ")]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        sys.stdout.write("\n".join(line for name in RUNS for line in winners(name, Path(scratch) / name)) + "\n")
