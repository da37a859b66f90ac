"""Commands, options and arguments."""

from mistakes import Mistake

COMMANDS = (
    "'run', 'sweep', 'collect', 'train', 'prfl', 'status', 'bars', 'check', 'reward', 'export', 'render', 'report', "
    "'view', 'plan', 'calibrate', 'policies', 'schema'"
)
USAGE = "usage: raysearch run [-h] [--print-config | --json] [--ask] [--timings FILE] config [key=value ...]"

TABLE = [
    Mistake(
        [],
        "the following arguments are required: {run,sweep,...}; usage: raysearch [-h] [--version] {run,sweep,...} ...",
    ),
    Mistake("rnu", f"invalid choice: 'rnu' (choose from {COMMANDS}); usage: raysearch ..."),
    Mistake("RUN config.yaml", f"invalid choice: 'RUN' (choose from {COMMANDS}); usage: raysearch ..."),
    Mistake("config.yaml", f"invalid choice: 'config.yaml' (choose from {COMMANDS}); usage: raysearch ..."),
    Mistake("--foo", "the following arguments are required: ...; usage: raysearch ..."),
    Mistake("--foo run config.yaml", "unrecognized arguments: --foo; usage: ..."),
    Mistake("run", f"the following arguments are required: config; {USAGE}"),
    Mistake("check m --call {", "argument --call: { is no JSON object, such as '{...}'; usage: raysearch check ..."),
    Mistake("check m --call []", "argument --call: [] is no JSON object, such as '{...}'; usage: raysearch check ..."),
    Mistake("check m --device tpu", "argument --device: invalid choice: 'tpu' (choose from 'cpu', 'cuda'); usage: ..."),
    Mistake("check nowhere --steps 3", "--steps: 3 is not allowed; it must be at least 4"),
    Mistake("check nowhere", "MODEL: 'nowhere' is not allowed; it must be an existing folder in ..."),
    Mistake("run config.yaml --foo", f"unrecognized arguments: --foo; {USAGE}"),
    Mistake("run config.yaml --seeds 3", f"unrecognized arguments: --seeds 3; {USAGE}"),
    Mistake("run config.yaml -s", f"unrecognized arguments: -s; {USAGE}"),
    Mistake("run config.yaml --print-config=5", f"argument --print-config: ignored explicit argument '5'; {USAGE}"),
    Mistake("run config.yaml other.yaml", "an override: 'other.yaml' is not allowed; it must be of the form key=value"),
    Mistake(
        "sweep",
        "the following arguments are required: config; usage: raysearch sweep [-h] [--json] config [key=value ...]",
    ),
    Mistake(
        "run config.yaml --json --print-config",
        f"argument --print-config: not allowed with argument --json; {USAGE}",
    ),
    Mistake("run config.yaml --json seed=3", "seed: unknown key (did you mean 'seeds'?); ..."),
    Mistake("sweep config.yaml --json", "sweep: None is not allowed; it must be a mapping with curves: ..."),
    Mistake("collect config.yaml --json", "rewards.final: None is not allowed; ..."),
    Mistake("status --json none", "RUN_DIR: 'none' is not allowed; it must be the folder of a run, ..."),
    Mistake("train config.yaml --json", "unrecognized arguments: --json; usage: raysearch train ..."),
    Mistake("sweep config.yaml --print-config", "unrecognized arguments: --print-config; usage: raysearch sweep ..."),
    Mistake("collect", "the following arguments are required: config; usage: raysearch collect ..."),
    Mistake("train", "the following arguments are required: config; usage: raysearch train ..."),
    Mistake("prfl none.yaml", "the config file: 'none.yaml' is not allowed; it must be an existing YAML file"),
    Mistake("status", "the following arguments are required: RUN_DIR; usage: raysearch status [-h] [--json] RUN_DIR"),
    Mistake("status a b", "unrecognized arguments: b; usage: raysearch status [-h] [--json] RUN_DIR"),
    Mistake(
        "status none", "RUN_DIR: 'none' is not allowed; it must be the folder of a run, with config.yaml and journal/"
    ),
    Mistake("status config.yaml", "RUN_DIR: 'config.yaml' is not allowed; it must be the folder of a run, ..."),
    Mistake("bars", "the following arguments are required: RUN_DIR, --cost; usage: raysearch bars ..."),
    Mistake("bars run", "the following arguments are required: --cost; usage: raysearch bars ..."),
    Mistake("bars run --cost half", "argument --cost: invalid float value: 'half'; usage: raysearch bars ..."),
    Mistake(
        "bars run --cost 0.5 --unit steps",
        "argument --unit: invalid choice: 'steps' (choose from 'seconds', 'nfe'); ...",
    ),
    Mistake("bars run --cost 0.5 --batch two", "argument --batch: invalid int value: 'two'; usage: ..."),
    Mistake("policies best_of_n", "unrecognized arguments: best_of_n; usage: raysearch policies [-h]"),
    Mistake("schema config.yaml", "unrecognized arguments: config.yaml; usage: raysearch schema [-h]"),
    Mistake(
        "sweep config.yaml",
        "sweep: None is not allowed; it must be a mapping with curves: without it this is a plain config",
    ),
    Mistake(
        "collect config.yaml",
        "rewards.final: None is not allowed; it must be the reward that grades finished videos ...",
    ),
    Mistake("train config.yaml", "model: unknown key...; allowed here: steps, ..."),
    Mistake("prfl config.yaml", "fleet: unknown key...; allowed here: steps, ..."),
]
