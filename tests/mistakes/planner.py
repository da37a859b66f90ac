"""Plans and calibrations."""

import json

from mistakes import Mistake

NONE = (
    "--timings: no timings are known; give --timings FILE, which `raysearch calibrate CONFIG` writes, or of an earlier "
    "run RUN_DIR; or --step SECONDS"
)
FILE = "--timings: 'a.json' is not allowed; it must be a file that `raysearch calibrate` has written, or the ..."
TIME = "is not allowed; it must be a time such as 45m, 1h or 1h30m"
ENTRY = {
    "device": "d",
    "model": "m",
    "shape": [9, 32, 32],
    "dtype": "float32",
    "slots": 1,
    "versions": "",
    "seconds": {},
}


def row(more: str, line: str, **files: str) -> Mistake:
    """`plan config.yaml` with more arguments."""
    return Mistake(f"plan config.yaml {more}", line, files={f"{k}.json": v for k, v in files.items()})


TABLE = [
    row("", NONE),
    Mistake("plan", "config: None is not allowed; it must be a YAML file, or left out with --against RUN_DIR"),
    Mistake("plan none.yaml --step 1", "the config file: 'none.yaml' is not allowed; it must be an existing YAML file"),
    row("--step 0", "--step: 0.0 is not allowed; it must be seconds above 0, such as 2.4"),
    row("--step nan", "--step: nan is not allowed; it must be seconds, such as 2.4"),
    row("--step 1 --decode -1", "--decode: -1.0 is not allowed; it must be seconds, such as 2.4"),
    row("--step 1 --score inf", "--score: inf is not allowed; it must be seconds, such as 2.4"),
    row("--step fast", "argument --step: invalid float value: 'fast'; usage: raysearch plan ..."),
    row("--timings a.json", "--timings: 'a.json' is not allowed; it must be an existing file, or the folder of a run"),
    *(row("--timings a.json", FILE, a=text) for text in ("", "[]", '{"timings": 2, "entries": []}', "[" * 99_999)),
    *(
        row(
            f"--step 1 --try {text}",
            f"--try: '{text}' is not allowed; it must be of the form KEY=N,N.. ...",
        )
        for text in ("scorers", "=1", "nodes=2", "denoiser=1")
    ),
    *(
        row(
            f"--step 1 --try scorers={n}",
            f"--try: 'scorers={n}' is not allowed; it must be whole numbers ...",
        )
        for n in ("", "0", "-1", "1.5", "1,,2", "1001", "inf", "nan", "a")
    ),
    row("--step 1 --try store_gb=0", "--try: 'store_gb=0' is not allowed; it must be numbers above 0, such as 0.5,1"),
    row(
        "--step 1 --try scorers=1 --try scorers=2",
        "--try: 'scorers=2' is not allowed; it must be given once for scorers, with all values: scorers=1,2,4",
    ),
    row(
        f"--step 1 --try scorers={','.join(map(str, range(1, 12)))} --try denoisers={','.join(map(str, range(1, 12)))}",
        "--try: '...' is not allowed; it must be at most 100 fleets; these are 121",
    ),
    *(row(f"--step 1 --deadline {t}", f"--deadline: '{t}' {TIME}") for t in ("1", "soon", "0h", "1h-5m")),
    row("--step 1 --arrival 5", f"--arrival: '5' {TIME}"),
    row("--step 1 --budget 5", "--budget: 5.0 is not allowed; it must be given together with --price"),
    row("--step 1 --price 0", "--price: 0.0 is not allowed; it must be a number above 0"),
    row("--step 1 --price 3 --budget nan", "--budget: nan is not allowed; it must be a number above 0"),
    row("--step 1 --draws 0", "--draws: 0 is not allowed; it must be in 1..100"),
    row(
        "--step 1 --rewards run",
        "RUN_DIR: 'run' is not allowed; it must be the folder of a run, with ...",
    ),
    Mistake(
        "plan --against run --step 1",
        "--against: 'run' is not allowed; it must be the folder of a run, with config.yaml",
    ),
    *(
        Mistake(f"plan --against run --step 1 {option}", f"{option.split()[0]}: ... it must be left out with --against")
        for option in ("--price 3", "--deadline 1h", "--rewards run", "--try scorers=1", "--arms")
    ),
    Mistake("calibrate", "the following arguments are required: config; usage: raysearch calibrate ..."),
    Mistake(
        "calibrate config.yaml --to none/a.json",
        "--to: 'none/a.json' is not allowed; it must be a file in a folder that is there",
    ),
    Mistake("calibrate config.yaml --to .", "--to: '.' is not allowed; it must be a file in a folder that is there"),
    Mistake(
        "calibrate config.yaml --to a.json",
        "--to: 'a.json' is not allowed; it must be a file that `raysearch calibrate` has written",
        files={"a.json": '{"entries": 3}'},
    ),
    Mistake(
        "calibrate config.yaml fleet.backend=ray fleet.denoisers.shards=2",
        "fleet.denoisers.shards: 2 is not allowed; it must be 1 to calibrate; --timings RUN_DIR reads a run of shards",
    ),
    Mistake(
        "run config.yaml --ask", "--ask: True is not allowed; it must be left out where no terminal is there to answer"
    ),
    Mistake(
        "run config.yaml --timings a.json",
        "--timings: 'a.json' is not allowed; it must be an existing file, or the folder of a run",
    ),
    Mistake(
        "plan config.yaml --timings a.json",
        "--timings: 'a.json' has no entry of model ..., shape [9, 32, 32], dtype float32; `raysearch calibrate ...",
        files={"a.json": json.dumps({"timings": 1, "entries": [ENTRY]})},
        heavy=True,
    ),
]
