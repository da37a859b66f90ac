"""The table of a run's arms on terminals of some widths."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from raysearch.session import display
from raysearch.session.ending import Command
from raysearch.session.snapshot import ArmStatus, Snapshot

COMMAND = Command(("raysearch",), ("run", "c.yaml"))


@pytest.mark.parametrize(("width", "lines"), [(120, 9), (80, 9)])
def test_a_table_of_four_components_fits_on_a_terminal(width, lines):
    """Nothing is cut: a narrow terminal has each interval below its mean, and the name of an arm on several lines."""
    judged = {"components": ("VQ", "MQ", "TA", "success"), "means": (0.5,) * 4, "intervals": (0.25,) * 4}
    judged |= {"gain": 0.125, "gain_interval": 0.062, "pairs": 6}
    costs = {"nfe": 2880, "nfe_spent": 252000, "replica_seconds": 60}
    s = Snapshot(*("r", "finished", "", 0.0, 0.0, None, None, 0), {}, None, "single")
    found = {}
    for name in ("best", "best-of-4-ceiling"):
        s = replace(s, arms={name: ArmStatus(6, 6, judge="verifier", **judged, **costs)})
        out = StringIO()
        display.summary(Console(file=out, width=width), s, "runs/r", COMMAND)
        for whole in ("arm", "searches", "success", "replica", "-s", "NFE", "run", "gain", "0.500", "0.250", "252000"):
            assert whole in out.getvalue()
        assert "+0.125" in out.getvalue() and "0.062" in out.getvalue() and "…" not in out.getvalue()
        found[name] = out.getvalue().splitlines()
        assert max(map(len, found[name])) <= width
    assert len(found["best"]) == lines
    first = "".join(line.strip(" │┃").split(" ")[0] for line in found["best-of-4-ceiling"])
    assert "best-of-4-ceiling" in first


def test_what_fits_into_no_table_is_shown_as_text():
    """Nothing is cut, whatever the length of an arm's name and the number of components."""
    costs = {"nfe": 2880, "nfe_spent": 252000, "replica_seconds": 60, "gain": 0.125, "gain_interval": 0.062, "pairs": 6}
    for name, n in (("rgrp-steps20-beta0.1-n2-temperature1.0", 4), ("best", 9)):
        judged = {"components": tuple(f"grade{i}" for i in range(n)), "means": (0.5,) * n, "intervals": (0.25,) * n}
        arms = {name: ArmStatus(6, 6, judge="verifier", **judged, **costs)}
        s = Snapshot("r", "finished", "", 0.0, 0.0, None, None, 0, arms, None, "single")
        display.summary(Console(file=(out := StringIO()), width=80), s, "runs/r", COMMAND)
        assert max(map(len, out.getvalue().splitlines())) <= 80 and "…" not in out.getvalue()
        whole = " ".join(out.getvalue().split())
        for part in (
            f"arm {name}: 6",
            "by verifier",
            f"grade{n - 1} 0.500 ± 0.250",
            "+0.125 ± 0.062",
            "252000 NFE run",
        ):
            assert part in whole
        assert "480 NFE and 10.00 replica-s a search" in whole
