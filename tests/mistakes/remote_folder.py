"""Run folders at URLs: that name no folder, hold a secret, cannot be reached, or belong to another run."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import fsspec

from mistakes import Mistake

SECRET = (
    "{}: the value, which is not shown, is not allowed; it must be the URL of a folder, such as s3://bucket/run, "
    "without a user's name, a password and a query: the library finds credentials in the environment"
)
NAME = "run_dir: '{}' is not allowed; it must be the URL of a folder, such as s3://bucket/run, with a bucket and ..."
UNKNOWN = (
    "{}: 'nosuch://bucket/run' is not allowed; it must be a path, or a URL whose scheme is one of s3, s3a, gs, ..."
)
REACHED = "a folder in a store that can be reached, and written with the environment's credentials (...)"
NO_RUN = "RUN_DIR: 'memory://{}/run' is not allowed; it must be the folder of a run, with config.yaml and journal/"
NEW = "it must be a new or empty folder: this one holds files, which are kept"
CLOSED = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "c"}
CLOSED |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}  # where nobody listens


def holding(bucket: str, files: Mapping[str, str]) -> Callable[[Path], None]:
    """Puts a run's files into fsspec's store in memory, each time under the same bucket."""

    def make(folder: Path) -> None:
        store = fsspec.filesystem("memory")
        for name, content in files.items():
            store.makedirs(f"/{bucket}/run/{name}".rpartition("/")[0], exist_ok=True)
            store.pipe_file(f"/{bucket}/run/{name}", content.encode())

    return make


def at(url: str, *more: str) -> list[str]:
    """A run's arguments; its stage is in the folder of the row."""
    return [f"run_dir={url}", "stage=run", *more]


def lease(expires: float) -> str:
    """The content of a lease.json."""
    return json.dumps({"owner": "b", "host": "host-b", "expires": expires})


TABLE = [
    *(
        Mistake([f"run_dir={url}"], SECRET.format("run_dir"))
        for url in (
            "s3://me:secret@bucket/run",
            "s3://me@bucket/run",
            "s3://bucket/run?token=secret",
            "s3://bucket/run#secret",
            "abfs://box:secret@account/run",
            "sftp://me:se]cret@[host/run",
        )
    ),
    Mistake(["status", "s3://me:secret@bucket/run"], SECRET.format("RUN_DIR")),
    *(
        Mistake([f"run_dir={u}"], NAME.format(u))
        for u in ("s3://bucket", "s3:///run", "gs://b/", "s3://b/a/../c", "s3:/b/run")
    ),
    Mistake(at("nosuch://bucket/run"), UNKNOWN.format("run_dir")),
    Mistake(["status", "nosuch://bucket/run"], UNKNOWN.format("RUN_DIR")),
    Mistake(
        ["export", "nosuch://bucket/run", "--to", "files", "out", "--pattern", "{seed}"], UNKNOWN.format("RUN_DIR")
    ),
    Mistake(
        at("dropbox://bucket/run"),
        "run_dir: 'dropbox://bucket/run' is not allowed; it must be a folder of this machine, or one whose library is "
        "installed (...dropbox...)",
    ),
    Mistake(
        at("abfs://box/run"),
        "run_dir: 'abfs://box/run' is not allowed; it must be a URL of a store that can be used (...Account...)",
    ),
    Mistake(at("s3://bucket/run"), f"run_dir: 's3://bucket/run' is not allowed; it must be {REACHED}", environ=CLOSED),
    Mistake(
        at("s3://bucket/run"),
        "AWS_ENDPOINT_URL: 'localhost:9000' is not allowed; it must be an address that begins with http:// or https:// "
        "and names a server",
        environ=CLOSED | {"AWS_ENDPOINT_URL": "localhost:9000"},
    ),
    *(
        Mistake(
            at("s3://bucket/run"),
            f"AWS_ENDPOINT_URL: '{address}' is not allowed; it must be an address that begins with http:// or https:// "
            "and names a server",
            environ=CLOSED | {"AWS_ENDPOINT_URL": address},
        )
        for address in ("http://", "http:///minio", "http://my server:9000")
    ),
    Mistake(
        at("s3://bucket/run"),
        "AWS_REGION: the value, which is not shown, is not allowed; it must be a text of one line",
        environ=CLOSED | {"AWS_REGION": "us-east-1\n"},
    ),
    Mistake(
        at("s3://bucket/run"),
        "AWS_ENDPOINT_URL: the value, which is not shown, is not allowed; it must be an address that begins with "
        "http:// or https:// and names a server, without a user's name, a password and a query",
        environ=CLOSED | {"AWS_ENDPOINT_URL": "http://localhost:99999"},
    ),
    Mistake(
        at("s3://bucket/run"),
        "AWS_SECRET_ACCESS_KEY: the value, which is not shown, is not allowed; it must be a text of one line",
        environ=CLOSED | {"AWS_SECRET_ACCESS_KEY": "secret\n"},
    ),
    Mistake(
        ["status", "s3://bucket/run"],
        f"RUN_DIR: 's3://bucket/run' is not allowed; it must be {REACHED}",
        environ=CLOSED,
    ),
    Mistake(
        ["run_dir=s3://bucket/run", "stage=/dev/null"],
        "stage: '/dev/null' is not allowed; it must be a folder that can be written (...)",
    ),
    Mistake(
        at("memory://held/run", "resume=auto"),
        "run_dir: 'memory://held/run' is not allowed; it must be one that no other run is writing to now (a run on "
        "host-b has its lease for ... s more)",
        make=holding("held", {"lease.json": lease(time.time() + 1e9)}),
    ),
    Mistake(
        at("memory://files/run"),
        f"run_dir: 'memory://files/run' is not allowed; {NEW}",
        make=holding("files", {"notes.txt": "precious"}),
    ),
    Mistake(
        at("memory://begun/run"),
        f"run_dir: 'memory://begun/run' is not allowed; {NEW}; resume=auto goes on with the run in it",
        make=holding("begun", {"config.yaml": "{}"}),
    ),
    Mistake(
        at("memory://none/run", "resume=require"),
        "run_dir: 'memory://none/run' is not allowed; it must be a folder that holds a run of this config "
        "(resume=require)",
    ),
    Mistake(
        at("memory://torn/run", "resume=auto"),
        "run_dir: 'memory://torn/run' is not allowed; it must be a folder whose journal is whole: "
        "journal/segments/000002.jsonl is torn or missing",
        make=holding("torn", {"config.yaml": "{}", "journal/segments/000003.jsonl": "torn\n"}),
        late=True,
    ),
    Mistake(["status", "memory://nowhere/run"], NO_RUN.format("nowhere")),
    Mistake(["bars", "memory://nowhere/run", "--cost", "0.5"], NO_RUN.format("nowhere")),
    Mistake(
        ["status", "memory://early/run"],
        "RUN_DIR: 'memory://early/run' is not allowed; it must be the folder of a run that has written status.json: "
        "this one has not started its fleet, or not sent it",
        make=holding("early", {"config.yaml": "{}"}),
    ),
    Mistake(
        ["status", "memory://strange/run"],
        "RUN_DIR: 'memory://strange/run' is not allowed; it must be the folder of a run of this version of raysearch: "
        "its status.json is damaged or of another",
        make=holding("strange", {"config.yaml": "{}", "status.json": "{}"}),
    ),
]
