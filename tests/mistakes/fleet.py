"""Fleets that no cluster can be, and clusters that do not answer."""

from mistakes import Mistake
from mistakes.media import picture

ADDRESS = "it must be host:port of a Ray head, as in 10.0.0.1:6379, or auto, or local"
REPLICAS = "it must be in 1..1000, or {min: 1, max: 64} within these"
SELECTOR = "it must be of the form a, !a, in(a, b) or !in(a, b)"
FOLDER = "it must be true, false or a folder"
WHOLE = "it must be a whole number, or below 1"


def refused(key: str, value: str, shown: str, allowed: str, *more: str) -> Mistake:
    """`key=value` with `more` words is answered with the key, the value as it is `shown`, and what is allowed."""
    return Mistake([f"{key}={value}", *more], f"{key}: {shown} is not allowed; {allowed}")


def silent(address: str) -> Mistake:
    """Nobody answers at this address."""
    line = f"fleet.address: no Ray cluster answers at '{address}' (unavailable: ...)"
    return Mistake(f"fleet.backend=ray fleet.address={address}", line, heavy=True)


def released(what: str, *more: str) -> Mistake:
    """Encoders cannot be released in a run with this, which `more` words ask for."""
    allowed = f"it must be false with {what}, which are encoded while searches run"
    line = f"fleet.encoders.release: True is not allowed; {allowed}"
    return Mistake(["fleet.encoders.release=true", *more], line, files={"red.png": picture()}, heavy=True)


TABLE = [
    # addresses
    *(
        refused("fleet.address", address, f"'{address}'", ADDRESS)
        for address in (
            "nonsense",
            "a:b:c",
            "10.0.0.1:0",
            "10.0.0.1:99999",
            "http://127.0.0.1:8265",
            "ray://10.0.0.1",
            "Auto",
        )
    ),
    silent("127.0.0.1:1"),
    silent("ray://127.0.0.1:1"),
    silent("no-such-host.invalid:6379"),
    # replicas
    refused("fleet.denoisers.replicas", "1001", "1001", REPLICAS),
    refused("fleet.encoders.replicas", "two", "'two'", REPLICAS),
    refused("fleet.scorers.replicas", "true", "True", REPLICAS),
    refused("fleet.denoisers.replicas", "{min: 1, max: 1000000}", "{'min': 1, 'max': 1000000}", REPLICAS),
    refused("fleet.denoisers.replicas", "{min: 4, max: 2}", "{'min': 4, 'max': 2}", REPLICAS),
    refused("fleet.denoisers.replicas", "{min: 0, max: 2}", "{'min': 0, 'max': 2}", REPLICAS),
    refused("fleet.denoisers.replicas", "{max: 2}", "{'max': 2}", REPLICAS),
    refused(
        "fleet.scorers.replicas",
        "{min: 1, max: 3}",
        "{'min': 1, 'max': 3}",
        "it must be elastic only where denoisers are: with share_gpus, scorers beyond min live with ...",
        "fleet.scorers.share_gpus=true",
    ),
    # resources
    refused("fleet.denoisers.num_gpus", "1.5", "1.5", WHOLE),
    refused("fleet.encoders.num_gpus", "2.25", "2.25", WHOLE),
    refused("fleet.scorers.num_gpus", "0.33333", "0.33333", "it must be a multiple of 0.0001"),
    refused("fleet.scorers.num_cpus", "0.12345", "0.12345", "it must be a multiple of 0.0001"),
    refused("fleet.denoisers.num_cpus", "-1", "-1", "it must be at least 0"),
    refused(
        "fleet.scorers.num_gpus",
        "0.5",
        "0.5",
        "it must be such that it and its denoiser's add up to a whole number, or below 1, but they make 1.2",
        "fleet.denoisers.num_gpus=0.7",
        "fleet.scorers.share_gpus=true",
    ),
    # labels and shared GPUs
    refused("fleet.denoisers.labels.zone", "in(b", "'in(b'", SELECTOR),
    refused("fleet.encoders.labels.zone", "b c", "'b c'", SELECTOR),
    refused("fleet.denoisers.labels.zone", '"!!b"', "'!!b'", SELECTOR),
    refused("fleet.denoisers.labels", "{a b: c}", "'a b'", "it must be a label's name"),
    refused(
        "fleet.scorers.share_gpus",
        "true",
        "True",
        "it must be false where scorers have an accelerator or labels of their own",
        "fleet.scorers.labels.zone=a",
    ),
    Mistake("fleet.metrics=often", "fleet.metrics: 'often' is not allowed; it must be ..."),
    # embeddings
    refused("fleet.encoders.cache", "3", "3", FOLDER),
    refused("fleet.encoders.cache", "''", "''", FOLDER),
    Mistake(
        "fleet.encoders.cache=config.yaml",
        "fleet.encoders.cache: 'config.yaml' is not allowed; it must be a folder that can be written",
        heavy=True,
    ),
    refused("fleet.encoders.release", "maybe", "'maybe'", "it must be ..."),
    refused(
        "fleet.encoders.release",
        "true",
        "True",
        "it must be false with fleet.encoders.cache=false: what is lost could not be encoded again",
        "fleet.encoders.cache=false",
    ),
    released("long.anew=true", "long.chunks=2"),
    released("obstacles that are pictures or videos", "obstacles=[{image: red.png}]"),
    released("first frames", "prompts=[{prompt: a red circle moving left, image: red.png}]"),
    # shards
    refused(
        "fleet.denoisers.shards",
        "2",
        "2",
        "it must be even and at least 4 with shard_mode=context+guidance",
        "fleet.backend=ray",
        "fleet.denoisers.shard_mode=context+guidance",
    ),
    refused("fleet.denoisers.shard_mode", "fsdp", "'fsdp'", "it must be left out with fleet.denoisers.shards=1"),
    refused("fleet.denoisers.shard_mode", "ring", "'ring'", "it must be one of context, fsdp, guidance, ..."),
    refused(
        "fleet.denoisers.shards",
        "3",
        "3",
        "it must be 2 with shard_mode=guidance: guidance has two halves",
        "fleet.backend=ray",
        "fleet.denoisers.shard_mode=guidance",
    ),
    refused(
        "fleet.denoisers.num_gpus",
        "0.5",
        "0.5",
        "it must be 0, or above 0.5 and at most 1 with shards: each has a GPU of its own",
        "fleet.backend=ray",
        "fleet.denoisers.shards=2",
    ),
]
