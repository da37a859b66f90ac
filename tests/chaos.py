"""Runs on real Ray under a seeded hand that kills what works, held against undisturbed ones.

    python tests/chaos.py --minutes 5 --seed 0

Each round collects with several policies in the exact mode on a cluster of three nodes, all on this machine. While it
goes on, denoisers, scorers and the encoder are killed during a call, actors while they start, a node with all its
actors, and the driver at any moment or in the middle of a write to its journal; a driver that died is started again
with resume=auto. However slow the machine, either hand strikes again only when something was recorded since, so that a
run ends. Only kills of what was busy count. Printed in the end: kills by what they hit, and winners and latents
that changed, which must be none (else the exit code is 1).
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from ray.cluster_utils import Cluster
from safetensors.numpy import load_file
from tiny import save_pipeline

from actors.backend import Backend
from actors.cluster import fleet as ray_fleet
from raysearch.config import config as configuration
from raysearch.engine.protocol import Answer, Call, Fleet
from raysearch.session.plan import Plan
from raysearch.session.session import Session

HERE = Path(__file__).parent
ARMS: list[dict[str, Any]] = [
    {"name": "best_of_n", "policy": {"name": "best_of_n", "n": 4}},
    {"name": "rgrp", "policy": {"name": "rgrp", "n": 4, "schedule": [2, 4, 6]}},
    {"name": "beam", "policy": {"name": "beam", "k": 2, "n": 2, "every": 3}},
    {"name": "smc", "policy": {"name": "smc", "n": 3, "every": 3}, "sampler": {"name": "flow-sde"}},
]
DOING = {"denoise": "denoising", "look": "scoring", "finish": "decoding a winner", "encode": "encoding"}
FAST = {"health_check_initial_delay_ms": 200, "health_check_period_ms": 200, "health_check_failure_threshold": 5}


def values(model: Path, address: str | None, prompts: int, seeds: int) -> dict[str, Any]:
    pool = {"num_cpus": 0.5}
    ray = {"backend": "ray", "address": address, "store_gb": 0.05, "timeout_s": 60}
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


# -- the driver, with a hand inside ------------------------------------------------------------------------------------


class Haunted(Backend):
    """A backend whose actors are killed while they are at a call."""

    def __init__(self, rng: random.Random, every: float, run_dir: Path, note: Callable[[str], None]) -> None:
        self._rng, self._every, self._run_dir, self._note = rng, every, run_dir, note

    @asynccontextmanager
    async def fleet(
        self, config: configuration.Config, plan: Plan, report: Callable[[str], None]
    ) -> AsyncIterator[Fleet]:
        doing: dict[str, tuple[ray_fleet.RayReplica, Counter[str]]] = {}
        plain = ray_fleet.RayReplica.run

        async def run(replica: ray_fleet.RayReplica, call: Call) -> Answer:
            calls = doing.setdefault(replica.id, (replica, Counter()))[1]
            calls[call.name] += 1
            try:
                return await plain(replica, call)
            finally:
                calls[call.name] -= 1

        ray_fleet.RayReplica.run = run  # type: ignore[method-assign,assignment]
        async with super().fleet(config, plan, report) as made:
            hand = asyncio.create_task(self._kill(doing))
            try:
                yield made
            finally:
                hand.cancel()

    async def _kill(self, doing: dict[str, tuple[ray_fleet.RayReplica, Counter[str]]]) -> None:
        recorded = -1
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self._every))
            if written(self._run_dir) <= recorded:
                continue
            wanted = self._rng.choice(list(DOING))
            busy = [(r, wanted) for r, calls in doing.values() if calls[wanted] > 0]
            if not busy:
                continue
            replica, method = self._rng.choice(busy)
            try:
                async with asyncio.timeout(5):
                    pid = await replica.actor.pid.remote()
                if doing[replica.id][1][method] > 0:  # still at it
                    os.kill(pid, signal.SIGKILL)
                    recorded = written(self._run_dir)
                    self._note(DOING[method])
            except Exception:
                continue


def drive(config: str, run_dir: str, seed: int, every: float, notes: str) -> None:
    """The driver's process: a run that goes on with what is there; sometimes it dies in a write to its journal."""
    rng = random.Random(seed)

    def note(what: str) -> None:
        with open(notes, "a") as lines:  # a line at a time, by either process
            lines.write(f"{what}\n")

    built = configuration.build(json.loads(config) | {"resume": "auto", "run_dir": run_dir})
    session = Session(built, Haunted(rng, every, Path(run_dir), note), run_dir=Path(run_dir), report=lambda line: None)
    if rng.random() < 0.4:
        add, fatal = session.journal.add, rng.randrange(1, 30)
        count = [0]

        def torn(record: dict[str, Any]) -> None:
            count[0] += 1
            if count[0] == fatal:
                text = json.dumps(record).encode()
                session.journal._file.write(b"0a0b0c0d " + text[: rng.randrange(len(text))])
                session.journal._file.flush()
                note("writing the journal")
                os._exit(9)
            add(record)

        session.journal.add = torn  # type: ignore[method-assign]
    asyncio.run(session.run())


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


def written(run_dir: Path) -> int:
    """Bytes of a run's journal."""
    return sum(p.stat().st_size for p in (run_dir / "journal").glob("*"))


def one_round(
    cluster: Cluster, model: Path, folder: Path, a: argparse.Namespace, rng: random.Random, mark: str
) -> Counter[str]:
    """A run until it is finished, whatever is killed. Returns the kills that hit something busy."""
    notes, config = folder / "notes", values(model, cluster.address, a.prompts, a.seeds)
    notes.touch()
    workers = [n for n in cluster.list_all_nodes() if n is not cluster.head_node]
    while True:
        arguments = [json.dumps(config), str(folder / "run"), str(rng.randrange(2**31)), str(a.every), str(notes)]
        log = (folder / "log").open("a")
        child = subprocess.Popen([sys.executable, __file__, "--drive", *arguments], stdout=log, stderr=log)
        recorded, left = written(folder / "run"), rng.uniform(1, 30)
        spared = -1  # until more than this is recorded
        deadline = float("inf")  # of the driver, from when it has made something
        while child.poll() is None:
            time.sleep(rng.expovariate(1 / (3 * a.every)))
            at_work = written(folder / "run") > recorded
            if at_work:
                deadline = min(deadline, time.monotonic() + left)
            what = rng.choice(["start", "start", "node", "driver"])
            if what in ("start", "node") and written(folder / "run") <= spared:
                continue
            if what == "start" and (found := starting(mark)):
                os.kill(rng.choice(found), signal.SIGKILL)
                spared = written(folder / "run")
                notes.open("a").write("starting an actor\n")
            elif what == "node" and at_work and rng.random() < 0.3:
                spared = written(folder / "run")
                node = rng.choice(workers)
                workers.remove(node)
                cluster.remove_node(node, allow_graceful=False)
                notes.open("a").write("a node\n")
                workers.append(cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20))
            elif what == "driver" and time.monotonic() > deadline and child.poll() is None:
                child.kill()
                notes.open("a").write("the driver\n")
        code = child.wait()
        log.close()
        if code == 0:
            return Counter(notes.read_text().split("\n")[:-1])
        if code not in (9, -signal.SIGKILL):
            raise SystemExit(f"the driver ended with {code}:\n{(folder / 'log').read_text()[-3000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="start no other round after so long")
    parser.add_argument("--every", type=float, default=1.0, help="mean seconds between two tries at a kill")
    parser.add_argument("--prompts", type=int, choices=(1, 2), default=2, help="of a round")
    parser.add_argument("--seeds", type=int, default=3, help="per prompt and arm of a round, of four arms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", nargs=5, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.drive:
        drive(a.drive[0], a.drive[1], int(a.drive[2]), float(a.drive[3]), a.drive[4])
        return 0
    rng, mark = random.Random(a.seed), f"{os.getpid()}-{time.time()}"
    os.environ |= {"RAYSEARCH_CHAOS": mark, "RAY_AUTH_MODE": "disabled"}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    began, kills, changed, searches, rounds = time.monotonic(), Counter[str](), 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = Path(temporary)
        model = save_pipeline(folder / "model")
        calm = configuration.build(values(model, None, a.prompts, a.seeds))
        asyncio.run(Session(calm, Backend(), run_dir=folder / "calm").run())
        expected = results(folder / "calm")
        small = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
        cluster = Cluster(
            initialize_head=True, head_node_args=small | {"_system_config": FAST, "include_dashboard": False}
        )
        try:
            for _ in range(2):
                cluster.add_node(**small)
            while not rounds or time.monotonic() - began < 60 * a.minutes:
                rounds += 1
                (folder / str(rounds)).mkdir()
                hit = one_round(cluster, model, folder / str(rounds), a, rng, mark)
                found = results(folder / str(rounds) / "run")
                wrong = [k for k in expected if found.get(k) != expected[k]]
                for k in wrong:
                    print(f"changed: {k}: {found.get(k, ('missing', None))[:2]}, not {expected[k][:2]}")
                kills, changed, searches = kills + hit, changed + len(wrong), searches + len(expected)
                print(
                    f"round {rounds}: {hit.total()} kills, {len(wrong)} of {len(expected)} winners changed", flush=True
                )
        finally:
            cluster.shutdown()
    print(f"\n{'killed while':20} kills")
    for what, n in kills.most_common():
        print(f"{what:20} {n:5}")
    print(
        f"{'all':20} {kills.total():5}\n\n{searches} searches in {rounds} rounds; winners or latents changed: {changed}"
    )
    return int(changed > 0)


if __name__ == "__main__":
    sys.exit(main())
