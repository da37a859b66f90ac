"""The JSON schema of a config file, for editors; and a config with all defaults written out.

An editor that knows the schema completes keys and marks mistakes. Some rules take more than one key to check, or a
file or a model: `raysearch run` alone knows those.
"""

import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from raysearch.config import obstacles
from raysearch.config.binding import adapter, signature
from raysearch.config.config import PLAIN, ArmBlock, Config, arms
from raysearch.config.policies import Cache, PolicyBlock, allocator_names, find_allocator, find_policy, policy_names
from raysearch.config.reading import BASE
from raysearch.config.step_cache import KINDS
from raysearch.config.suites import SuiteConfig

Node = dict[str, Any]
OF_REWARDS: Node = {  # keys that every reward's block may have
    "weights": {"type": "object"},
    "first_latent_frames": {"type": "integer", "minimum": 1},
    "label": {"type": "string"},
    "weight": {"type": "number"},
}


def json_schema(rewards: Mapping[str, Callable[..., Any]]) -> Node:
    """The JSON schema of what `run`, `sweep` and `collect` read; `rewards` are those that ship, by name."""
    schema = _of(Config)
    parts: Node = schema["$defs"]
    parts["policy"] = _named({name: find_policy(name) for name in policy_names()}, {})
    parts["allocator"] = _named({name: find_allocator(name) for name in allocator_names()}, {})
    parts["step_cache"] = _named(KINDS, {})
    parts["reward"] = _named(rewards, OF_REWARDS)
    parts["obstacle"] = {"anyOf": [_part(kind, parts) for kind in obstacles.KINDS.values()]}
    parts["Classifier"]["properties"]["reward"] = {"$ref": "#/$defs/reward", "required": ["name"]}
    one: Node = {"$ref": "#/$defs/reward"}
    for key in parts["RewardsConfig"]["properties"]:
        parts["RewardsConfig"]["properties"][key] = {"anyOf": [one, {"type": "array", "items": one}, {"type": "null"}]}
    shared = {"anyOf": [{"$ref": "#/$defs/allocator"}, {"type": "null"}]}
    avoided = {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/obstacle"}}, {"type": "null"}]}
    blocks = {"sampler": "SamplerConfig", "budget": "Budget", "rewards": "RewardsConfig", "policy": "policy"}
    arm = _part(ArmBlock, parts)
    differs = parts[ArmBlock.__name__]
    differs["properties"] |= {k: {"$ref": f"#/$defs/{v}"} for k, v in blocks.items()}
    differs["properties"] |= {"obstacles": avoided, "allocation": shared}
    axes = {"type": ["object", "null"], "additionalProperties": {"type": "array"}}
    curve = {**differs, "required": [], "properties": {**differs["properties"], "along": axes, "across": axes}}
    sweep = {"type": "object", "properties": {"across": axes, "curves": {"type": "array", "items": curve}}}
    prompts = [{"type": "array"}, _part(SuiteConfig, parts), {"type": "null"}]
    parts["Config"]["properties"] |= {
        "prompts": {"anyOf": prompts, "default": None},
        "obstacles": avoided,
        "allocation": shared,
        "arms": {"anyOf": [{"type": "array", "items": arm}, {"type": "null"}]},
        "sweep": sweep | {"required": ["curves"], "additionalProperties": False},
        "policy": {"$ref": "#/$defs/policy"},
        BASE: {"type": "string"},
    }
    whole = {"required": parts["Config"].pop("required"), "properties": {"policy": {"required": ["name"]}}}
    parts["Config"]["anyOf"] = [whole, {"required": [BASE]}]  # what a file lacks may be in its base
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def spelled_out(config: Config) -> Config:
    """The same config with its defaults written out: its policy's arguments, or all that each arm takes over."""
    found = arms(config)
    policies = [{"name": a.policy, **a.arguments} for a in found]
    if config.arms is None:
        policy, blocks = policies[0], None
    else:
        policy = PLAIN
        blocks = [
            {f.name: getattr(a, f.name) for f in fields(ArmBlock)}
            | {k: asdict(getattr(a, k)) for k in ("sampler", "budget", "rewards")}
            | {"policy": p, "obstacles": [asdict(o) for o in a.obstacles]}
            for a, p in zip(found, policies, strict=True)
        ]
    plain: Node = json.loads(json.dumps({"policy": policy, "arms": blocks}, default=os.fspath))
    return replace(config, **plain)


class _Lenient(GenerateJsonSchema):
    """A parameter of a type that no config can give, such as an array, may have any value."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  # as pydantic declares it

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Node:
        return {}


def _of(hint: Any) -> Node:
    schema: Node = adapter(hint).json_schema(schema_generator=_Lenient)
    return {"$defs": schema.get("$defs", {}), **schema["additionalProperties"]}


def _part(hint: Any, parts: Node) -> Node:
    """A reference to the schema of a dataclass, which is added to the parts."""
    schema = _of(hint)
    parts |= schema.pop("$defs")
    return schema


def _named(functions: Mapping[str, Callable[..., Any]], more: Node) -> Node:
    """The schema of mappings with the name of a function and its arguments; other names are of the form module:name."""
    cases = []
    for name, function in functions.items():
        (own,) = _of(signature(function))["$defs"].values()
        for key, p in inspect.signature(function).parameters.items():
            if key in own["properties"] and p.default is not p.empty:
                own["properties"][key]["default"] = json.loads(json.dumps(p.default, default=os.fspath))
            if p.annotation is PolicyBlock:
                own["properties"][key] = {"$ref": "#/$defs/policy", "required": ["name"]}
            if p.annotation is Cache:
                one = {"$ref": "#/$defs/step_cache", "required": ["name"]}
                own["properties"][key] = {"anyOf": [one, {"type": "null"}], "default": None}
        own["properties"] = {"name": {"const": name}, **own["properties"], **more}
        cases.append({"if": {"properties": {"name": {"const": name}}, "required": ["name"]}, "then": own})
    known = {"anyOf": [{"enum": list(functions)}, {"type": "string", "pattern": ":"}]}
    return {"type": "object", "properties": {"name": known}, "allOf": cases}
