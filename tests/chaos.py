"""Runs on real Ray under a seeded hand that kills and stops what works, held against undisturbed ones.

    python tests/chaos.py --minutes 5 --seed 0

Each round collects with several policies in the exact mode on a cluster of three nodes, all on this machine. While it
goes on, denoisers, scorers and the encoder are killed or stopped during a call, actors are killed while they start, a
node with all its actors, the driver at any moment or in the middle of a write to its journal, and the raylet of the
driver's node or the head with the whole cluster, which is then started anew; and the driver's disk is full. A driver
that ended is started again with resume=auto. One that stops by itself must say in one line how to go on. However slow
the machine, either hand strikes again only when something was recorded since, so that a run ends. Only what was busy
counts. Printed in the end: what was struck, and winners and latents that changed, which must be none (else the exit
code is 1).
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from benchmarks.bench import Report, json_option
from haunted import struck, written
from ray.cluster_utils import Cluster
from safetensors.numpy import load_file
from tiny import save_pipeline

from actors.backend import Backend
from raysearch.config import config as configuration
from raysearch.session.session import Session

HERE = Path(__file__).parent
ARMS: list[dict[str, Any]] = [
    {"name": "best_of_n", "policy": {"name": "best_of_n", "n": 4}},
    {"name": "rgrp", "policy": {"name": "rgrp", "n": 4, "schedule": [2, 4, 6]}},
    {"name": "beam", "policy": {"name": "beam", "k": 2, "n": 2, "every": 3}},
    {"name": "smc", "policy": {"name": "smc", "n": 3, "every": 3}, "sampler": {"name": "flow-sde"}},
]
RAYLET, HEAD = "raylet of the driver's node", "head of the cluster"
FAST = {"health_check_initial_delay_ms": 200, "health_check_period_ms": 200, "health_check_failure_threshold": 5}


def values(model: Path, address: str | None, prompts: int, seeds: int) -> dict[str, Any]:
    pool = {"num_cpus": 0.5}
    ray = {"backend": "ray", "address": address, "store_gb": 0.05, "timeout_s": 30}
    pools = {"denoisers": pool | {"replicas": 2}, "scorers": pool | {"replicas": 2}, "encoders": {"num_cpus": 0.1}}
    return {
        "model": {"path": str(model), "height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 40},
        "sampler": {"name": "unipc", "num_steps": 8, "guidance_scale": 3.0},
        "rewards": {"search": {"name": "tiny:Brightness"}, "final": {"name": "tiny:Brightness"}},
        "collect": {"levels": [0.9, 0.4]},
        "prompts": ["a red circle moving left", "a blue square moving up"][:prompts],
        "seeds": list(range(seeds)),
        "arms": ARMS,
        "output": {"videos": False, "latents": True},
        "fleet": ray | pools if address else {"backend": "local"},
    }


def results(run_dir: Path) -> dict[str, tuple[str, str, bytes]]:
    """Of each search its status, its winner, and the bytes of the winner's latents, those on its way too."""
    rows = pq.read_table(run_dir / "searches.parquet").to_pylist()
    made = {}
    for r in rows:
        file = run_dir / "latents" / f"{r['search_id']}.safetensors"
        collected = run_dir / "rollouts" / f"{r['search_id']}.arrow"
        made[r["search_id"]] = (
            r["status"],
            r["winner"],
            load_file(file)["latents"].tobytes() + collected.read_bytes() if file.exists() else b"",
        )
    return made


# -- the hand outside --------------------------------------------------------------------------------------------------


def starting(mark: str) -> list[int]:
    """Processes of our cluster in which an actor loads its model."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            ours = f"RAYSEARCH_CHAOS={mark}".encode() in (process / "environ").read_bytes()
            if ours and b"ray::Actor.__init__" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


class Machines:
    """A cluster of three nodes, which can be started anew."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the head, on whose node drivers run, and two nodes beside it."""
        small = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
        own = {"_system_config": FAST, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=small | own)
        for _ in range(2):
            self.cluster.add_node(**small)

    def swap_node(self, rng: random.Random) -> None:
        """Remove a node with all its actors, and add another."""
        node = rng.choice(list(self.cluster.worker_nodes))
        self.cluster.remove_node(node, allow_graceful=False)
        self.cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)

    def lose(self, what: str) -> None:
        """Kill the raylet of the drivers' node, or the head's process."""
        head = self.cluster.head_node
        head.kill_raylet(check_alive=False) if what == RAYLET else head.kill_gcs_server(check_alive=False)

    def stop(self) -> None:
        """End all processes of the cluster."""
        self.cluster.shutdown()


def stopped_with_a_line(log: Path) -> bool:
    """True if the last line of a driver says how to go on; Ray may write there after it."""
    lines = [line for line in log.read_text().splitlines() if line.startswith("raysearch: ")]
    return bool(lines) and re.search(r"(goes on|give the same command again) with run_dir=", lines[-1]) is not None


def one_round(
    machines: Machines, model: Path, folder: Path, a: argparse.Namespace, rng: random.Random, mark: str
) -> Counter[str]:
    """A run until it is finished, whatever is struck. Returns what was struck while it was busy."""
    notes, run_dir, log = folder / "notes", folder / "run", folder / "log"
    notes.touch()

    def note(what: str) -> None:
        with notes.open("a") as lines:
            lines.write(f"{what}\n")

    while True:
        config = values(model, machines.cluster.address, a.prompts, a.seeds)
        arguments = [json.dumps(config), str(run_dir), str(rng.randrange(2**31)), str(a.every), str(a.most), str(notes)]
        log.write_text("")
        with log.open("a") as lines:
            child = subprocess.Popen([sys.executable, str(HERE / "haunted.py"), *arguments], stdout=lines, stderr=lines)
        recorded, left = written(run_dir), rng.uniform(1, 30)
        spared = -1  # until more than this is recorded
        deadline = float("inf")  # of the driver, from when it has made something
        lost = ""  # what the cluster has lost
        while child.poll() is None:
            time.sleep(rng.expovariate(1 / (3 * a.every)))
            at_work = written(run_dir) > recorded
            if at_work:
                deadline = min(deadline, time.monotonic() + left)
            what = rng.choice(["start", "start", "node", "driver", "cluster"])
            if lost or struck(notes) >= a.most or (what != "driver" and written(run_dir) <= spared):
                continue
            if what == "start" and (found := starting(mark)):
                os.kill(rng.choice(found), signal.SIGKILL)
                spared = written(run_dir)
                note("actor that was starting")
            elif what == "node" and at_work and rng.random() < 0.3:
                spared = written(run_dir)
                machines.swap_node(rng)
                note("node")
            elif what == "cluster" and at_work and rng.random() < 0.3:
                lost = rng.choice([RAYLET, HEAD])
                machines.lose(lost)
                note(lost)
            elif what == "driver" and time.monotonic() > deadline and child.poll() is None:
                child.kill()
                note("driver at another moment")
        code = child.wait()
        if lost:
            machines.stop()
            machines.start()
        if code == 0:
            return Counter(notes.read_text().split("\n")[:-1])
        if code not in (9, -signal.SIGKILL) and not (code == 1 and stopped_with_a_line(log)):
            raise SystemExit(f"the driver ended with {code}:\n{log.read_text()[-3000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="start no other round after so long")
    parser.add_argument("--every", type=float, default=1.0, help="mean seconds between two tries at a strike")
    parser.add_argument("--most", type=int, default=1000, help="strikes in a round")
    parser.add_argument("--prompts", type=int, choices=(1, 2), default=2, help="of a round")
    parser.add_argument("--seeds", type=int, default=3, help="per prompt and arm of a round, of four arms")
    parser.add_argument("--seed", type=int, default=0)
    json_option(parser)
    a = parser.parse_args()
    rng, mark = random.Random(a.seed), f"{os.getpid()}-{time.time()}"
    os.environ |= {"RAYSEARCH_CHAOS": mark, "RAY_AUTH_MODE": "disabled"}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    began, strikes, changed, searches, rounds = time.monotonic(), Counter[str](), 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = Path(temporary)
        model = save_pipeline(folder / "model")
        calm = configuration.build(values(model, None, a.prompts, a.seeds))
        asyncio.run(Session(calm, Backend(), run_dir=folder / "calm").run())
        expected = results(folder / "calm")
        machines = Machines()
        try:
            while not rounds or time.monotonic() - began < 60 * a.minutes:
                rounds += 1
                (folder / str(rounds)).mkdir()
                hit = one_round(machines, model, folder / str(rounds), a, rng, mark)
                found = results(folder / str(rounds) / "run")
                wrong = [k for k in expected if found.get(k) != expected[k]]
                for k in wrong:
                    print(f"changed: {k}: {found.get(k, ('missing', None))[:2]}, not {expected[k][:2]}")
                strikes, changed, searches = strikes + hit, changed + len(wrong), searches + len(expected)
                shown = f"{hit.total()} strikes, {len(wrong)} of {len(expected)} winners changed"
                print(f"round {rounds}: {shown}", flush=True)
        finally:
            machines.stop()
    rows = [("rounds", rounds), ("searches", searches), ("strikes at what was at work", strikes.total())]
    rows += [(f"of these: {what}", n) for what, n in strikes.most_common()]
    rows += [("winners or latents that changed", changed)]
    Report(a.json).table("chaos", "what | number", [(what, str(n)) for what, n in rows])
    return int(changed > 0)


if __name__ == "__main__":
    sys.exit(main())
