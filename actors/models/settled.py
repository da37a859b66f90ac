"""What a config leaves to the model's folder, settled before torch is imported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from actors import models
from actors.models import folder as folders
from actors.models.admission import check_admitted
from actors.models.roles import WORKERS, footprint, worded
from actors.models.source import Source, configured
from raysearch.config import prompts
from raysearch.config.config import Arm, Config, SamplerConfig, arms
from raysearch.config.obstacles import Classifier, Text
from raysearch.errors import check

MUCH = 1.0  # gigabytes of weights that are worth a line
SHIFTS = ("flow_shift", "shift")  # the keys of a scheduler's config for the shift of a flow's noise levels


def settled(config: Config, say: Callable[[str], None]) -> Config:
    """The config with the flow shift that is used, where neither it nor the model's folder has one.

    Prompts are checked, and the folder as far as that takes no torch. `say` takes a line about each value that may not
    be meant. Raises ConfigError.
    """
    entries = prompts.load(config)
    ways = arms(config)
    source = configured(config, ways)
    folder = source.folder
    tell_memory(source, say)
    if source.runs_pipeline:
        check_admitted(folder, unchecked=config.model.unchecked)
        check_pipeline(config, ways, str(folders.index(folder)["_class_name"]))
        return config
    for arm in ways:
        s = arm.sampler
        if s.scale <= 1:
            scale = f"sampler.guidance_scale={s.scale:g} (arm {arm.name})"
            keys = (prompts.key(e, "negative_prompt") for e in entries if e.negative_prompt)
            if key := "sampler.negative_prompt" if s.negative_prompt else next(keys, ""):
                say(f"{key} has no effect with {scale}: only a scale above 1 is guidance")
    unsaid = any(a.sampler.flow_shift is None for a in ways)
    if shift_of(folder, given=not unsaid) is not None or not unsaid:
        return config
    say("sampler.flow_shift: the model's scheduler has no shift, so 1 is used: its noise levels are not shifted")
    return replace(config, sampler=replace(config.sampler, flow_shift=1.0))


def tell_memory(source: Source, say: Callable[[str], None]) -> None:
    """Say how much memory the weights of each kind of worker take, where that is much."""
    found = {kind: footprint(source, role) for kind, role in WORKERS.items()}
    if any(f.gigabytes >= MUCH for f in found.values()):
        for kind, f in found.items():
            say(f"{kind}: {worded(f)}")


def check_pipeline(config: Config, ways: Sequence[Arm], name: str) -> None:
    """Raises ConfigError for what a pipeline that is run as it is cannot have; `name` is that of its class."""
    check(config.long.chunks == 1, "long.chunks", config.long.chunks, f"1 with {name}, which is run as it is")
    unset, why = SamplerConfig(name="own"), f"left out with {name}, whose own scheduler is used"
    for arm in ways:
        where = f" (arm {arm.name})"
        check(
            arm.sampler.name == "own",
            f"sampler.name{where}",
            arm.sampler.name,
            f"own with {name}, which is run as it is",
        )
        for key in ("flow_shift", "eta", "interpolant", "batched_guidance"):
            value = getattr(arm.sampler, key)
            check(value == getattr(unset, key), f"sampler.{key}{where}", value, why)
        for i, block in enumerate(arm.obstacles):
            fits = isinstance(block, Classifier) or (isinstance(block, Text) and block.space == "latent")
            allowed = f"a reward, or a text in space latent, with {name}, which is run as it is"
            check(fits, f"obstacles[{i}]{where}", type(block).__name__.lower(), allowed)


def check_request(path: str, size: Mapping[str, int], num_steps: int) -> None:
    """Raises ConfigError, before torch is imported, for what `raysearch check` cannot measure."""
    check(num_steps >= 4, "--steps", num_steps, "at least 4")
    for name, side in size.items():
        check(side >= 1, f"--{name}", side, "at least 1")
    family = models.family_name(models.found(path, "MODEL", own=True), "MODEL", own=True)
    check(family == "pipelines", "MODEL", path, "a pipeline of diffusers")


def shift_of(folder: Path, *, given: bool) -> float | None:
    """The flow shift of a model's scheduler, 1 of a model without a scheduler; None if the scheduler has none.

    Raises ConfigError for a scheduler's config that cannot be, and unless the shift is `given` where the scheduler
    computes it from a video's size.
    """
    scheduler = folders.parts(folder).get("scheduler")
    if scheduler is None:
        return 1.0
    config, file = scheduler.config, str(scheduler.config_file)
    for name in ("num_train_timesteps", "solver_order"):
        counted = name not in config or (type(config[name]) is int and config[name] >= 1)
        check(counted, "model.path", file, f"a file whose {name} is a whole number above 0, not {config.get(name)!r}")
    found = next((config[k] for k in SHIFTS if config.get(k) is not None), None)
    positive = found is None or (type(found) in (int, float) and 0 < found < float("inf"))
    check(positive, "model.path", file, f"a file whose shift is a number above 0, not {found!r}")
    dynamic = bool(config.get("use_dynamic_shifting"))
    allowed = "given: this model's scheduler computes it from a video's size (use_dynamic_shifting), and raysearch not"
    check(given or not dynamic, "sampler.flow_shift", None, allowed)
    return found
