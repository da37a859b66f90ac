"""docs/grafana.json asks for metrics that raysearch exports, by the tags that they have."""

import json
import re
from pathlib import Path

import pytest

from actors.cluster.metrics import COUNTERS, GAUGES

FILE = Path(__file__).parents[2] / "docs" / "grafana.json"
BOARD = json.loads(FILE.read_text())
# As Ray's endpoint has them, which test_metrics_can_be_scraped_from_the_node reads: a prefix, and _total of a counter.
TAGS = {f"ray_raysearch_{name}": {"run"} | ({key} if key else set()) for name, _, key, _ in GAUGES}
TAGS |= {f"ray_raysearch_{name}_total": {"run"} for name, _, _ in COUNTERS}
QUERIES = [(panel["title"], target) for panel in BOARD["panels"] for target in panel["targets"]]
METRIC = re.compile(r"ray_\w+")


def wrong(expression: str, legend: str) -> list[str]:
    """What about a query does not fit the metrics that there are."""
    names = METRIC.findall(expression)
    faults = [f"no metric {name}" for name in names if name not in TAGS] or ([] if names else ["no metric"])
    if faults:
        return faults
    tags = set().union(*(TAGS[name] for name in names))
    asked = set(re.findall(r"{{(\w+)}}", legend)) | set(re.findall(r"[{,]\s*(\w+)\s*=~?", expression))
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        asked |= {tag.strip() for tag in grouped.split(",")}
    return [f"no tag {tag}" for tag in sorted(asked - tags)]


@pytest.mark.parametrize(("title", "target"), QUERIES, ids=[f"{title}-{q['refId']}" for title, q in QUERIES])
def test_a_query_asks_for_what_is_exported(title, target):
    assert wrong(target["expr"], target["legendFormat"]) == []
    assert target["expr"].count("(") == target["expr"].count(")")
    assert 'run=~"$run"' in target["expr"]


@pytest.mark.parametrize(
    ("expression", "legend", "fault"),
    [
        ("max by (run) (ray_raysearch_best_rewards)", "{{run}}", "no metric ray_raysearch_best_rewards"),
        ("ray_raysearch_evictions", "{{run}}", "no metric ray_raysearch_evictions"),
        ("max by (run, arm) (ray_raysearch_slots)", "{{run}}", "no tag arm"),
        ('ray_raysearch_slots{knd=~"a"}', "{{run}}", "no tag knd"),
        ("ray_raysearch_best_reward", "{{arm}}", "no tag arm"),
        ("up", "", "no metric"),
    ],
)
def test_a_typing_mistake_would_be_found(expression, legend, fault):
    assert wrong(expression, legend) == [fault]


def test_every_metric_is_shown_but_those_whose_rate_is():
    shown = {name for _, q in QUERIES for name in METRIC.findall(q["expr"])}
    rates = {f"ray_raysearch_{kind}_total" for kind in ("nfe", "decodes", "rewards")}
    assert TAGS.keys() - shown == rates | {"ray_raysearch_store_latents"}


def test_panels_do_not_overlap_and_name_their_source():
    taken = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    listed = {v["name"]: v for v in BOARD["templating"]["list"]}
    name, tag = re.fullmatch(r"label_values\((\w+), (\w+)\)", listed["run"]["query"]).groups()
    assert tag in TAGS[name]
