"""Step caches: which evaluations of its model a draft leaves out, since their outputs are nearly known without them.

The four kinds as a config names them, with the formulas' names and defaults as published; `actors.sampling.caches` has
the formulas. A cache is a part of a draft's sampler. What it has seen is in no state, so a cached draft is denoised
from its noise to its end in one go.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar, NewType, TypeAlias

from annotated_types import Ge

from raysearch.config.binding import Such, bind
from raysearch.config.mistakes import nearest
from raysearch.config.numbers import Amount, Count
from raysearch.errors import ConfigError, check
from raysearch.recipe.candidate import Candidate, Sampler
from raysearch.recipe.digests import canonical_json

CacheBlock = NewType("CacheBlock", dict[str, Any])  # the name and the arguments of a step cache, as a config has them
Share = Annotated[float, Such("in 0..1", lambda share: 0 <= share <= 1)]


@dataclass(frozen=True, kw_only=True)
class FirstBlock:
    """First Block Cache (ParaAttention; diffusers' FirstBlockCacheConfig), after TeaCache (arXiv 2411.19108).

    The first block is run. If the mean change of its residual since the last whole evaluation is at most `threshold`
    times the mean of that residual, what the other blocks added then is added again.
    """

    name: ClassVar[str] = "first_block"
    threshold: Amount = 0.05

    def nfe(self, sampler: Sampler) -> int:
        """The NFE of a draft at most: that without a cache."""
        return sampler.num_steps * sampler.nfe_per_step


@dataclass(frozen=True, kw_only=True)
class Easy:
    """EasyCache (arXiv 2507.02860): the output changes by k times the change of its input.

    k is estimated at each evaluation. While the sum of the changes, relative to the last output, is below `threshold`,
    what the model added to its input is added again. The steps of the share `warmup`, 10 of 50 as published, and the
    last step are evaluated.
    """

    name: ClassVar[str] = "easy"
    threshold: Amount = 0.05
    warmup: Share = 0.2

    def nfe(self, sampler: Sampler) -> int:
        """The NFE of a draft at most: that without a cache."""
        return sampler.num_steps * sampler.nfe_per_step


@dataclass(frozen=True, kw_only=True)
class Taylor:
    """TaylorSeer (arXiv 2503.06923) on the model's output, as diffusers' TaylorSeerCacheConfig has it in its lite mode.

    After `warmup` steps one step in `interval` is evaluated. The outputs between are a Taylor expansion in the steps,
    whose derivatives up to `order` are differences between the outputs of evaluated steps.
    """

    name: ClassVar[str] = "taylor"
    interval: Count = 5
    warmup: Count = 3
    order: Annotated[int, Ge(0)] = 1

    def evaluates(self, step: int) -> bool:
        """True if the model is evaluated at this step."""
        return step < self.warmup or (step - self.warmup - 1) % self.interval == 0

    def nfe(self, sampler: Sampler) -> int:
        """The NFE of a draft."""
        return sum(map(self.evaluates, range(sampler.num_steps))) * sampler.nfe_per_step


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Guidance in a limited interval (Kynkäänniemi et al., arXiv 2404.07724): only at the levels in (low, high].

    Elsewhere the unconditional half is left out and the conditional output is taken. The default is that of the paper
    for SDXL, (0.28, 5.42] as noise over signal, in levels of flow matching.
    """

    name: ClassVar[str] = "guidance"
    low: Share = 0.22
    high: Share = 0.84

    def guides(self, sigma: float) -> bool:
        """True if both halves are evaluated at this noise level."""
        return self.low < sigma <= self.high

    def nfe(self, sampler: Sampler) -> int:
        """The NFE of a draft."""
        return sampler.num_steps + sum(map(self.guides, sampler.sigmas[:-1]))


StepCache: TypeAlias = FirstBlock | Easy | Taylor | Guidance
KINDS: dict[str, type[StepCache]] = {kind.name: kind for kind in (FirstBlock, Easy, Taylor, Guidance)}


def step_cache(block: Mapping[str, Any], key: str = "policy.cache") -> StepCache:
    """The step cache of a config block, with its defaults. Raises ConfigError."""
    name, given = block.get("name"), {k: v for k, v in block.items() if k != "name"}
    if "name" not in block:
        raise ConfigError(f"{key}.name is missing: it must be one of {', '.join(KINDS)}")
    if not isinstance(name, str) or name not in KINDS:
        hint = nearest(name, KINDS) if isinstance(name, str) else ""
        raise ConfigError(f"{key}.name: no step cache {name!r}{hint}; there are {', '.join(KINDS)}")
    cache = KINDS[name](**bind(KINDS[name], given, key))
    if isinstance(cache, Guidance):
        check(cache.low <= cache.high, f"{key}.low", cache.low, f"at most {key}.high={cache.high:g}")
    return cache


def spelled(cache: StepCache) -> dict[str, Any]:
    """The config block of a step cache, with all its arguments."""
    return {"name": cache.name, **asdict(cache)}


def cached(sampler: Sampler, block: Mapping[str, Any], key: str = "policy.cache") -> Sampler:
    """The sampler of a draft with a step cache. Raises ConfigError for one that the model cannot have."""
    cache = step_cache(block, key)
    allowed = f"one of {', '.join(sampler.caches)} for this model" if sampler.caches else "left out for this model"
    check(cache.name in sampler.caches, f"{key}.name", cache.name, allowed)
    guided = cache.name != Guidance.name or sampler.guided
    check(guided, f"{key}.name", cache.name, f"another one where sampler.guidance_scale={sampler.guidance_scale:g}")
    return replace(sampler, cache=canonical_json(spelled(cache)), cached_nfe=cache.nfe(sampler))


def check_whole(x: Candidate, *, begun: bool) -> None:
    """Raises ConfigError for a part of a cached draft; with `begun` the noise of one may be there."""
    allowed = f"from step 0 to {x.sampler.num_steps} in one go: what a step cache has seen is in no state"
    whole = x.origin.step == 0 and (x.finished or (begun and x.step == 0))
    check(x.sampler.cache is None or whole, "a cached draft", f"from step {x.origin.step} to {x.step}", allowed)


def cache_of(sampler: Sampler) -> StepCache | None:
    """The step cache of a sampler; None without one."""
    return None if sampler.cache is None else step_cache(json.loads(sampler.cache))
