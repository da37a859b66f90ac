"""Keys and values of a config."""

from mistakes import Mistake

TOP = "allowed here: model, parts, sampler, policy, rewards, prompts, ..."


def no(key: str, value: str, allowed: str, **more: object) -> Mistake:
    """The override key=value, whose value is shown as it is written, and what it must be."""
    return Mistake([f"{key}={value}"], f"{key}: {value} is not allowed; it must be {allowed}", **more)


TABLE = [
    # keys that are not there
    Mistake("polcy.name=single", f"polcy: unknown key (did you mean 'policy'?); {TOP}"),
    Mistake("anew=2", f"anew: unknown key (did you mean 'long.anew'?); {TOP}"),
    Mistake("num_steps=10", f"num_steps: unknown key (did you mean 'sampler.num_steps'?); {TOP}"),
    Mistake(
        "num_gpus=1",
        "num_gpus: unknown key (did you mean 'fleet.denoisers.num_gpus' or 'fleet.scorers.num_gpus' or ...?); ...",
    ),
    Mistake("seed=3", f"seed: unknown key (did you mean 'seeds'?); {TOP}"),
    Mistake("seeds[0]=3", f"seeds[0]: unknown key (did you mean 'seeds'?); {TOP}"),
    Mistake("model.hight=32", "model.hight: unknown key (did you mean 'height'?); allowed here: path, ..."),
    Mistake("sampler.num_step=3", "sampler.num_step: unknown key (did you mean 'num_steps'?); allowed here: name, ..."),
    Mistake("sampler.cfg=5", "sampler.cfg: unknown key; allowed here: name, num_steps, guidance_scale, ..."),
    Mistake(
        "budget.seconds=5", "budget.seconds: unknown key (did you mean ...?); allowed here: nfe, replica_seconds, ..."
    ),
    Mistake("rewards.judge.name=near", "rewards.judge: unknown key; allowed here: search, early, compare, ..."),
    Mistake("output.video=true", "output.video: unknown key (did you mean 'videos'?); allowed here: videos, ..."),
    Mistake("long.chunk=2", "long.chunk: unknown key (did you mean 'chunks'?); allowed here: ..."),
    Mistake("fleet.workers=3", "fleet.workers: unknown key...; allowed here: backend, address, ..."),
    Mistake(
        "fleet.denoisers.gpus=1", "fleet.denoisers.gpus: unknown key (did you mean 'num_gpus'?); allowed here: ..."
    ),
    Mistake(
        "fleet.denoisers.share_gpus=true", "fleet.denoisers.share_gpus: unknown key...; allowed here: replicas, ..."
    ),
    # blocks that are no blocks
    no("model", "5", "a mapping"),
    Mistake("model=tiny", "model: 'tiny' is not allowed; it must be a mapping"),
    Mistake("model=null", "model: None is not allowed; it must be a mapping"),
    Mistake("model={}", "model.path ...", files={"config.yaml": "model: {}"}),
    Mistake("seeds=[0]", "model is missing: it must be a mapping", files={"config.yaml": "prompts: [a]"}),
    Mistake("model.dtype=float32", "model.path is missing: it must be of type str", files={"config.yaml": ""}),
    Mistake("sampler=unipc", "sampler: 'unipc' is not allowed; it must be a mapping"),
    no("fleet", "3", "a mapping"),
    no("long", "5", "a mapping"),
    no("budget", "100", "a mapping"),
    no("rewards", "[1]", "a mapping"),
    no("output", "5", "a mapping"),
    Mistake("policy=best_of_n", "policy: 'best_of_n' is not allowed; it must be a mapping, such as {name: best_of_n}"),
    no("policy", "5", "a mapping"),
    Mistake("policy=[single]", "policy: ['single'] is not allowed; it must be a mapping"),
    Mistake("policy=single policy.n=3", "policy: 'single' is not allowed; it must be a mapping"),
    Mistake(
        "rewards.search=near", "rewards.search: 'near' is not allowed; it must be a mapping such as {name: pixel}, ..."
    ),
    no("rewards.final", "7", "a mapping such as {name: pixel}, or a list of such mappings"),
    no("fleet.denoisers", "2", "a mapping"),
    Mistake("fleet.denoisers.labels=[a]", "fleet.denoisers.labels: ['a'] is not allowed; it must be a mapping"),
    no("fleet.scorers.labels", "3", "a mapping"),
    # model
    Mistake("model.path=null", "model.path: None is not allowed; it must be of type str"),
    Mistake("model.path=[a]", "model.path: ['a'] is not allowed; it must be of type str"),
    Mistake("model.dtype=int8", "model.dtype: 'int8' is not allowed; it must be one of float32, bfloat16, float16"),
    no("model.dtype", "16", "one of float32, bfloat16, float16"),
    no("model.height", "0", "at least 1"),
    no("model.width", "-8", "at least 1"),
    no("model.num_frames", "1.5", "of type int"),
    Mistake("model.num_frames=nine", "model.num_frames: 'nine' is not allowed; it must be of type int"),
    Mistake("model.height='32'", "model.height: '32' is not allowed; it must be of type int"),
    no("model.max_sequence_length", "[1]", "of type int"),
    Mistake(
        "model.height=80000000",
        "model: '9 frames of 80000000 x 32' is not allowed; it must be a video of at most 8,589,934,592 pixels ...",
    ),
    no("output.scale", "513", "such that no side of an mp4 has more than 16,384 pixels"),
    # sampler
    Mistake("sampler.num_steps=many", "sampler.num_steps: 'many' is not allowed; it must be of type int"),
    no("sampler.num_steps", "0", "at least 1"),
    no("sampler.num_steps", "10001", "at most 10000"),
    no("sampler.num_steps", str(10**30), "at most 10000"),
    Mistake("sampler.num_steps=true", "sampler.num_steps: True is not allowed; it must be of type int"),
    Mistake("sampler.num_steps=null", "sampler.num_steps: None is not allowed; it must be of type int"),
    Mistake("sampler.name=ddpm", "sampler.name: 'ddpm' is not allowed; it must be one of unipc, euler, dpm++, ..."),
    Mistake("sampler.name=[unipc]", "sampler.name: ['unipc'] is not allowed; it must be one of unipc, euler, ..."),
    Mistake("sampler.guidance_scale=.nan", "sampler.guidance_scale: nan is not allowed; it must be a finite number"),
    Mistake("sampler.guidance_scale=.inf", "sampler.guidance_scale: inf is not allowed; it must be a finite number"),
    Mistake("sampler.guidance_scale=high", "sampler.guidance_scale: 'high' is not allowed; it must be of type float"),
    no("sampler.flow_shift", "-1", "above 0"),
    Mistake("sampler.flow_shift=auto", "sampler.flow_shift: 'auto' is not allowed; it must be of type float"),
    no("sampler.eta", "0.5", "left out, or sampler.name one of flow-sde, score-sde"),
    Mistake("sampler.name=flow-sde sampler.eta=0", "sampler.eta: 0 is not allowed; it must be above 0"),
    Mistake(
        "sampler.interpolant=vp", "sampler.interpolant: 'vp' is not allowed; it must be linear with sampler.name=unipc"
    ),
    Mistake("sampler.interpolant=cosine", "sampler.interpolant: 'cosine' is not allowed; it must be one of linear, vp"),
    Mistake(
        "sampler.negative_prompt=[ugly]", "sampler.negative_prompt: ['ugly'] is not allowed; it must be of type str"
    ),
    no("sampler.batched_guidance", "1", "of type bool, true or false"),
    # budget
    no("budget.nfe", "-1", "above 0"),
    no("budget.nfe", "1.5", "of type int"),
    Mistake("budget.nfe=all", "budget.nfe: 'all' is not allowed; it must be of type int"),
    Mistake("budget.wall_seconds=.inf", "budget.wall_seconds: inf is not allowed; it must be a finite number"),
    Mistake("budget.replica_seconds=1h", "budget.replica_seconds: '1h' is not allowed; it must be of type float"),
    # seeds
    no("seeds", "3", "a list, such as [3]"),
    Mistake("seeds=all", "seeds: 'all' is not allowed; it must be a list, such as ['all']"),
    Mistake(["seeds={from: 0}"], "seeds: {'from': 0} is not allowed; it must be a list"),
    Mistake("seeds.0=3", "seeds: {'0': 3} is not allowed; it must be a list"),
    no("seeds", "[]", "a list with 1 or more entries"),
    Mistake("seeds=[1,1]", "seeds: [1, 1] is not allowed; it must be without repetition"),
    Mistake("seeds=[0,-1]", "seeds[1]: -1 is not allowed; it must be in 0..2^63-1"),
    Mistake("seeds=[0.5]", "seeds[0]: 0.5 is not allowed; it must be of type int"),
    Mistake("seeds=[0,x]", "seeds[1]: 'x' is not allowed; it must be of type int"),
    Mistake(f"seeds=[{2**63}]", f"seeds[0]: {2**63} is not allowed; it must be in 0..2^63-1"),
    no("seeds_apart", "1", "of type bool, true or false"),
    # output
    no("output.videos", "0", "of type bool, true or false"),
    Mistake("output.latents=some", "output.latents: 'some' is not allowed; it must be of type bool, true or false"),
    no("output.scale", "0", "at least 1"),
    no("output.scale", "1.5", "of type int"),
    # long videos
    no("long.anew", "2", "of type bool, true or false"),
    no("long.chunks", "0", "in 1..1000"),
    no("long.chunks", "1001", "in 1..1000"),
    no("long.prefix", "0", "at least 1"),
    no("long.fifo", "5", "a mapping"),
    Mistake("long.fifo={}", "long.fifo: 'given' is not allowed; it must be left out with long.chunks=1"),
    Mistake(
        "long.fifo.strid=1", "long.fifo.strid: unknown key (did you mean 'stride'?); allowed here: partitions, ..."
    ),
    Mistake("long.fifo.stride=x", "long.fifo.stride: 'x' is not allowed; it must be of type int"),
    # the fleet
    Mistake("fleet.backend=slurm", "fleet.backend: 'slurm' is not allowed; it must be one of ray, local"),
    Mistake("fleet.address=[a]", "fleet.address: ['a'] is not allowed; it must be of type str"),
    Mistake("fleet.store_gb=.inf", "fleet.store_gb: inf is not allowed; it must be a finite number"),
    no("fleet.store_gb", "0", "above 0"),
    Mistake("fleet.wait_s=long", "fleet.wait_s: 'long' is not allowed; it must be of type float"),
    no("fleet.wait_s", "-1", "at least 0"),
    no("fleet.timeout_s", "0", "above 0"),
    no("fleet.denoisers.replicas", "0", "in 1..1000, or {min: 1, max: 64} within these"),
    Mistake(
        "fleet.denoisers.replicas=many",
        "fleet.denoisers.replicas: 'many' is not allowed; it must be in 1..1000, or {min: 1, max: 64} within these",
    ),
    Mistake(
        ["fleet.denoisers.replicas={min: 3, max: 1}"],
        "fleet.denoisers.replicas: {'min': 3, 'max': 1} is not allowed; it must be in 1..1000, or ...",
    ),
    Mistake(["fleet.scorers.replicas={min: 1}"], "fleet.scorers.replicas: {'min': 1} is not allowed; it must be ..."),
    no("fleet.denoisers.slots", "0", "at least 1"),
    no("fleet.denoisers.num_gpus", "-1", "at least 0"),
    Mistake(
        "fleet.denoisers.num_cpus=.inf", "fleet.denoisers.num_cpus: inf is not allowed; it must be a finite number"
    ),
    Mistake("fleet.scorers.num_gpus=half", "fleet.scorers.num_gpus: 'half' is not allowed; it must be of type float"),
    no("fleet.encoders.shards", "2", "1"),
    no("fleet.scorers.shards", "2", "1"),
    no("fleet.denoisers.shards", "2", "1 with fleet.backend=local: each shard is a process"),
    Mistake(
        "fleet.denoisers.shard_mode=fsdp",
        "fleet.denoisers.shard_mode: 'fsdp' is not allowed; it must be left out with fleet.denoisers.shards=1",
    ),
    Mistake(
        "fleet.denoisers.shard_mode=tensor",
        "fleet.denoisers.shard_mode: 'tensor' is not allowed; it must be one of ...",
    ),
    Mistake(
        "fleet.denoisers.labels.zone=[a]", "fleet.denoisers.labels.zone: ['a'] is not allowed; it must be of type str"
    ),
    Mistake(
        ["fleet.scorers.share_gpus=true", "fleet.scorers.accelerator=H100"],
        "fleet.scorers.share_gpus: True is not allowed; it must be false where scorers have an accelerator ...",
    ),
    Mistake(
        ["fleet.scorers.share_gpus=true", "fleet.scorers.replicas={min: 1, max: 4}"],
        "fleet.scorers.replicas: {'min': 1, 'max': 4} is not allowed; it must be elastic only where denoisers are...",
    ),
    Mistake(
        "fleet.backend=ray fleet.denoisers.shards=3 fleet.denoisers.shard_mode=guidance",
        "fleet.denoisers.shards: 3 is not allowed; it must be 2 with shard_mode=guidance: guidance has two halves",
    ),
    Mistake(
        "fleet.backend=ray fleet.denoisers.shards=2 fleet.denoisers.num_gpus=0.4",
        "fleet.denoisers.num_gpus: 0.4 is not allowed; it must be 0, or above 0.5 and at most 1 with shards...",
    ),
    Mistake(
        "fleet.backend=ray fleet.denoisers.shards=2 fleet.denoisers.shard_mode=guidance sampler.guidance_scale=1",
        "sampler.guidance_scale: 1.0 is not allowed; it must be above 1 with fleet.denoisers.shard_mode=guidance ...",
    ),
    # the run itself
    no("max_searches", "0", "at least 1"),
    Mistake("max_searches=all", "max_searches: 'all' is not allowed; it must be of type int"),
    Mistake("resume=yes", "resume: True is not allowed; it must be one of never, auto, require..."),
    Mistake("resume=always", "resume: 'always' is not allowed; it must be one of never, auto, require..."),
    Mistake("run_dir=[a]", "run_dir: ['a'] is not allowed; it must be of type str"),
    # other commands' configs
    Mistake(
        "collect.levels=[0.5]",
        "collect: {'levels': [0.5]} is not allowed; it must be left out of a plain run, or the file run by "
        "`python -m raysearch collect`",
    ),
    Mistake(
        "sweep=5",
        "sweep: 5 is not allowed; it must be left out of a plain run, or the file run by `python -m raysearch sweep`",
    ),
    # overrides and references
    Mistake(["=5"], "an override: '=5' is not allowed; it must be of the form key=value"),
    Mistake(["seeds=[0]", "nonsense"], "an override: 'nonsense' is not allowed; it must be of the form key=value"),
    Mistake("seeds=[0", "seeds: '[0' is no YAML: while parsing a flow sequence, line 1, column 1 did not find ..."),
    Mistake(["seeds=[0,", "1]"], "seeds: '[0,' is no YAML: ...; a bracket is not closed (a shell divides at ..."),
    Mistake(["run_dir=a: b: c"], "run_dir: 'a: b: c' is no YAML: mapping values are not allowed in this context..."),
    Mistake(["run_dir='a"], 'run_dir: "\'a" is no YAML: while scanning a quoted scalar, line 1, column 1 found ...'),
    Mistake("model.path=${nothing}", "model.path: Interpolation key 'nothing' not found"),
    Mistake("model.path=${model.path}", "model.path: Recursive interpolation detected"),
    Mistake("model.path=${oc.env:NOT_SET}", "model.path: ...Environment variable 'NOT_SET' not found..."),
    Mistake("model.path=${nosuch:1}", "model.path: Unsupported interpolation type nosuch"),
    # files
    Mistake("run none.yaml", "the config file: 'none.yaml' is not allowed; it must be an existing YAML file"),
    Mistake("run .", "the config file: '.' is not allowed; it must be an existing YAML file"),
    Mistake(["run", "x" * 300], "the config file: 'xxx...' is not allowed; it must be an existing YAML file"),
    Mistake(
        "run list.yaml",
        "the config file: 'list.yaml' is not allowed; it must be a YAML mapping",
        files={"list.yaml": "[1]"},
    ),
    Mistake("run text.yaml", "just text: unknown key; allowed here: model, ...", files={"text.yaml": "just text"}),
    Mistake(
        "run torn.yaml",
        "the config file: 'torn.yaml' is no YAML: while parsing a flow sequence in ..., line 1, ...",
        files={"torn.yaml": "model: [unclosed\nsampler: {"},
    ),
    Mistake(
        "run tab.yaml",
        "the config file: 'tab.yaml' is no YAML: ...line 2...",
        files={"tab.yaml": "model:\n\tpath: x\n"},
    ),
    Mistake(
        "run twice.yaml",
        "the config file: 'twice.yaml' is no YAML: ...duplicate key seeds...",
        files={"twice.yaml": "seeds: [0]\nseeds: [1]\n"},
    ),
    Mistake(
        "run bytes.yaml", "the config file: 'bytes.yaml' is no YAML: ...", files={"bytes.yaml": b"\xff\xfe\x00model"}
    ),
    Mistake(
        "run binary.yaml", "the config file: 'binary.yaml' is no YAML: ...", files={"binary.yaml": bytes(range(256))}
    ),
    Mistake("run many.yaml", "the config file: 'many.yaml' is no YAML: ...", files={"many.yaml": "a: 1\n---\nb: 2\n"}),
    Mistake("run empty.yaml", "model is missing: it must be a mapping", files={"empty.yaml": ""}),
    Mistake(
        "run other.yaml", "1: unknown key; allowed here: model, ...", files={"other.yaml": "model: {path: x}\n1: 2\n"}
    ),
]
