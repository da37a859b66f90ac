"""What a config asks of a cluster and whether nodes can give it, with no Ray."""

from contextlib import nullcontext, suppress
from types import SimpleNamespace

import pytest

from actors.cluster.placement import Node, check_cluster, check_workers, homes, matches
from actors.training.config import WorkersConfig
from actors.workers import pulse
from raysearch.config import config as configuration
from raysearch.errors import ConfigError


def config(**fleet):
    small = {"store_gb": 0.1, "encoders": {"num_cpus": 0}}
    return configuration.build({"model": {"path": "none"}, "fleet": small | fleet})


def layout(c) -> str:
    """Homes as "tenants: CPUs+GPUs", the elastic ones in brackets."""
    texts = []
    for h in homes(c):
        text = f"{' '.join(t.id for t in h.tenants)}: {h.bundles[0].get('CPU', 0):g}+{h.bundles[0].get('GPU', 0):g}"
        texts.append(text if h.needed else f"[{text}]")
    return ", ".join(texts).replace("denoiser-", "d").replace("scorer-", "s").replace("encoder-", "e")


@pytest.mark.parametrize(
    ("workers", "line"),
    [
        ({"number": 4, "num_cpus": 2}, None),
        ({"number": 5, "num_cpus": 2}, "workers.number: 5"),
        ({"number": 2, "num_cpus": 5}, "such that all workers, of 0 GPU and 5 CPU each, fit on the nodes: 6 CPU and 1"),
        ({"number": 3, "num_gpus": 0.5}, "workers.number: 3"),
        ({"number": 2, "num_gpus": 0.5}, None),
        ({"num_gpus": 1.5}, "workers.num_gpus: 1.5"),
        ({"number": 9, "num_cpus": 0}, None),
    ],
)
def test_a_trainings_workers_fit_on_nodes(workers, line):
    nodes = [Node({"CPU": 6.0, "GPU": 1.0}), Node({"CPU": 2.0})]
    with pytest.raises(ConfigError, match=line) if line else nullcontext():
        check_workers(WorkersConfig(**workers), nodes)


GPU = {"num_gpus": 0.7}
SHARDS = {"replicas": 2, "shards": 2, "num_gpus": 1, "num_cpus": 1}
TWO_OF_TWO = r"fleet\.denoisers: 2 replicas of 2 shards of 1 GPU and 1 CPU each"


def denoisers(replicas: int, gpus: float) -> dict[str, float]:
    return {"replicas": replicas, "num_gpus": gpus, "num_cpus": 0.5}


def test_a_scorer_that_shares_is_beside_the_first_shard_only():
    (home, _) = homes(config(denoisers={"shards": 3}, scorers={"share_gpus": True}))
    assert [b["CPU"] for b in home.bundles] == [1.5, 1, 1]


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        ({}, "d0: 1+0, s0: 0.5+0, e0: 0+0"),
        ({"denoisers": {"replicas": {"min": 1, "max": 3}}}, "d0: 1+0, s0: 0.5+0, e0: 0+0, [d1: 1+0], [d2: 1+0]"),
        (
            {"denoisers": GPU | {"replicas": 2}, "scorers": {"replicas": 3, "num_gpus": 0.1, "share_gpus": True}},
            "d0 s0 s2: 2+0.9, d1 s1: 1.5+0.8, e0: 0+0",
        ),
        (
            {
                "denoisers": GPU | {"replicas": {"min": 1, "max": 3}},
                "scorers": {"replicas": {"min": 1, "max": 3}, "num_gpus": 0.3, "share_gpus": True},
            },
            "d0 s0: 1.5+1, e0: 0+0, [d1 s1: 1.5+1], [d2 s2: 1.5+1]",
        ),
        (
            {
                "denoisers": {"replicas": {"min": 1, "max": 3}},
                "scorers": {"replicas": {"min": 2, "max": 4}, "share_gpus": True},
            },
            "d0 s0 s1: 2+0, e0: 0+0, [d1 s2: 1.5+0], [d2 s3: 1.5+0]",
        ),
    ],
)
def test_homes(fleet, expected):
    assert layout(config(**fleet)) == expected


def node(cpus: float, gpus: float = 0, gb: float = 1, kind: str = "", **labels: str) -> Node:
    typed = {f"accelerator_type:{kind}": 1.0} if kind else {}
    return Node({"CPU": cpus, "GPU": gpus, "object_store_memory": gb * 1e9, **typed}, labels)


@pytest.mark.parametrize(
    ("fleet", "nodes", "line"),
    [
        ({"denoisers": GPU | {"labels": {"zone": "a"}}}, [node(4), node(4, 1, zone="a")], None),
        (
            {"denoisers": GPU | {"labels": {"zone": "a"}}},
            [node(4, zone="a"), node(4, 1)],
            "1 CPU with labels {zone: a}",
        ),
        ({"denoisers": GPU | {"accelerator": "H100"}}, [node(4, 1, kind="H100")], None),
        ({"denoisers": GPU | {"accelerator": "H100"}}, [node(4, 1, kind="A100")], "on H100 do not .* 1 GPU on A100"),
        ({"denoisers": {"replicas": {"min": 1, "max": 99}}}, [node(2)], None),  # the others may come later
        ({"scorers": {"num_gpus": 0.3, "share_gpus": True}, "denoisers": GPU}, [node(2, 1)], None),
        (
            {"scorers": {"num_gpus": 0.3, "share_gpus": True}, "denoisers": GPU},
            [node(1, 1), node(1, 1)],
            "1 scorers with",
        ),
        ({"store_gb": 0.9}, [node(2)], "at most 0.8: Ray's object store has 1 GB"),
        ({"store_gb": 0.9, "denoisers": GPU}, [node(2, gb=9), node(2, 1)], "at most 0.8"),  # made where the GPUs are
        ({"store_gb": 0.9}, [node(2), node(2)], "at most 0.8"),  # the one denoiser is on one of them
        ({"store_gb": 0.9, "denoisers": {"replicas": 2}}, [node(2), node(2)], None),
        (
            {"denoisers": {"num_gpus": 1}, "scorers": {"num_gpus": 1, "labels": {"zone": "a"}}},
            [node(2, 1, zone="a"), node(2, 1)],  # the denoiser can go elsewhere
            None,
        ),
        (
            {
                "denoisers": {"num_gpus": 1, "replicas": 2},
                "scorers": {"num_gpus": 0.7},
                "encoders": {"num_cpus": 0, "num_gpus": 0.5, "labels": {"zone": "a"}},
            },
            [node(9, 3, zone="a")],  # half a GPU is left
            "fleet.scorers: 1 replicas of 0.7 GPU",
        ),
        ({"denoisers": {"num_cpus": 2}, "encoders": {"labels": {"ray.io/zone": "in(a, b)"}}}, [node(3)], "ray.io/zone"),
        ({"denoisers": denoisers(4, 0.5)}, [node(8, 2)], None),
        ({"denoisers": denoisers(5, 0.5)}, [node(8, 2)], r"fleet\.denoisers"),
        ({"denoisers": denoisers(2, 0.6)}, [node(8, 2)], None),
        ({"denoisers": denoisers(3, 0.6)}, [node(8, 2)], r"fleet\.denoisers"),  # no GPU has 0.6 left
        ({"denoisers": denoisers(1, 2)}, [node(8, 1), node(8, 1)], r"fleet\.denoisers"),  # on no single node
        ({"denoisers": denoisers(3, 1)}, [node(1, 8)], r"fleet\.denoisers|fleet\.scorers"),  # too few CPUs beside them
        ({"denoisers": SHARDS}, [node(8, 2), node(8, 2)], None),
        ({"denoisers": SHARDS}, [node(8, 3)], TWO_OF_TWO),
        ({"denoisers": SHARDS}, [node(3, 4)], TWO_OF_TWO),
    ],
)
def test_what_fits(fleet, nodes, line):
    c = config(**fleet)
    if line is None:
        check_cluster(c, nodes)
    else:
        with pytest.raises(ConfigError, match=line):
            check_cluster(c, nodes)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("in", True),
        ("a", False),
        ("!a", True),
        ("!in", False),
        ("in(a,in)", True),
        ("in(a,b)", False),
        ("!in(a)", True),
    ],
)
def test_label_selectors(wanted, fits):
    assert matches({"where": "in"}, {"where": wanted}) is fits


def test_ray_gets_label_selectors_without_spaces_which_it_would_match_too():
    (home, *_) = homes(config(denoisers={"labels": {"where": "in(a, in)"}}))
    assert home.labels == {"where": "in(a,in)"}


def test_a_pulse_is_the_time_since_the_step_began_also_of_one_that_failed(monkeypatch):
    now = iter([10.0, 13.0, 20.0])
    monkeypatch.setattr(pulse, "time", SimpleNamespace(monotonic=lambda: next(now)))
    p = pulse.Pulse()
    assert p.busy() == 0
    with suppress(ZeroDivisionError), p.beat():
        assert (p.busy(), p.beats) == (3, 0)
        raise ZeroDivisionError
    assert (p.busy(), p.beats) == (0, 1)
