"""Fleets that no cluster can be, and clusters that do not answer."""

from mistakes import Mistake

ADDRESS = "it must be host:port of a Ray head, as in 10.0.0.1:6379, or auto, or local"
REPLICAS = "it must be at least 1 and at most 1000, or {min: 1, max: 64}"


def on_ray(*words: str) -> list[str]:
    """A command for a fleet that would start Ray."""
    return ["fleet.backend=ray", "fleet.address=local", *words]


TABLE = [
    # addresses
    Mistake("fleet.address=nonsense", f"fleet.address: 'nonsense' is not allowed; {ADDRESS}"),
    Mistake("fleet.address=a:b:c", f"fleet.address: 'a:b:c' is not allowed; {ADDRESS}"),
    Mistake("fleet.address=10.0.0.1:0", f"fleet.address: '10.0.0.1:0' is not allowed; {ADDRESS}"),
    Mistake("fleet.address=10.0.0.1:99999", f"fleet.address: '10.0.0.1:99999' is not allowed; {ADDRESS}"),
    Mistake("fleet.address=http://127.0.0.1:8265", f"fleet.address: 'http://127.0.0.1:8265' is not allowed; {ADDRESS}"),
    Mistake(
        "fleet.backend=ray fleet.address=127.0.0.1:1",
        "fleet.address: no Ray cluster answers at '127.0.0.1:1' (unavailable: ...)",
        heavy=True,
    ),
    Mistake(
        "fleet.backend=ray fleet.address=ray://127.0.0.1:1",
        "fleet.address: no Ray cluster answers at 'ray://127.0.0.1:1' (unavailable: ...)",
        heavy=True,
    ),
    Mistake(
        "fleet.backend=ray fleet.address=no-such-host.invalid:6379",
        "fleet.address: no Ray cluster answers at 'no-such-host.invalid:6379' (unavailable: ...)",
        heavy=True,
    ),
]
