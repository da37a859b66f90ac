"""A run's folder that holds links, is full or read-only: nothing outside is touched, nothing is lost."""

import asyncio
import resource
import subprocess
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import ARMS, config, run, same, session
from mistakes.run_folder import FOLDERS, LINKED

from raysearch.errors import ConfigError, FolderError, single
from raysearch.files import Folder
from raysearch.session import journal
from raysearch.session.directory import chosen
from raysearch.session.journal import Journal, held
from raysearch.session.session import Session
from raysearch.session.snapshot import ArmStatus
from raysearch.session.status import read
from raysearch.testing import FakeBackend, run_virtual

FEW = {"arms": ARMS[:2], "output": {"latents": True}}


def write(folder):
    folder.write("a/b/c", b"mine")


def overwrite(folder):
    folder.overwrite("a/b/c", b"mine")


def append(folder):
    with folder.append("a/b/c") as file:
        file.write(b"mine")


def unlink(folder):
    folder.unlink("a/b/c")


@pytest.mark.parametrize("change", [write, overwrite, append, unlink])
@pytest.mark.parametrize("link", ["a", "a/b", "a/b/c"])
def test_no_link_in_a_folder_is_followed(tmp_path, change, link):
    """Links that come while a run goes on: those that are there before it are refused."""
    other = tmp_path / "other"
    (other / "b").mkdir(parents=True)
    for name in ("c", "b/c"):
        (other / name).write_text("another's")
    path = tmp_path / "run" / link
    path.parent.mkdir(parents=True)
    path.symlink_to(other / "c" if link == "a/b/c" else other)
    replaced = link == "a/b/c" and change in (write, unlink)  # the link itself makes way
    with nullcontext() if replaced else pytest.raises(FolderError, match=f"run_dir: '{tmp_path}/run/a/b/c' cannot be"):
        change(Folder(tmp_path / "run"))
    assert (other / "c").read_text() == (other / "b" / "c").read_text() == "another's"


def test_a_file_that_is_half_written_is_no_link_either(tmp_path):
    (tmp_path / "other").write_text("another's")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.partial").symlink_to(tmp_path / "other")
    Folder(tmp_path / "run").write("a", b"mine")
    assert (tmp_path / "run" / "a").read_bytes() == b"mine"
    assert (tmp_path / "other").read_text() == "another's"


@pytest.mark.parametrize("name", ["made", "made.partial"])
def test_no_folder_is_emptied_through_a_link(tmp_path, name):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("another's")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "other")
    folder = Folder(tmp_path / "run")
    with pytest.raises(FolderError), folder.replacing("made") as made:
        (made / "file").write_text("mine")
    with nullcontext() if name == "made.partial" else pytest.raises(FolderError):  # there is no "made"
        folder.remove("made")
    assert (tmp_path / "other" / "file").read_text() == "another's"


def test_what_fails_half_way_leaves_the_old_file_and_no_other(tmp_path):
    folder = Folder(tmp_path)
    folder.write("a", b"old")
    with pytest.raises(TypeError), folder.file("a") as file:
        file.writelines([b"new", None])
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_the_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "there").mkdir()
    (tmp_path / "disk" / "run").symlink_to(tmp_path / "disk" / "there")
    run(tmp_path / "runs" / "run", **FEW)
    rows, progress = run(tmp_path / "runs" / "run", **FEW, resume="require")
    assert len(rows) == progress.kept == 4
    assert len(list((tmp_path / "disk" / "there" / "latents").iterdir())) == 4


@pytest.mark.parametrize("name", [*LINKED, *FOLDERS])
def test_a_run_with_a_planted_link_is_refused_and_nothing_is_written(tmp_path, name):
    run(tmp_path / "run", **FEW)
    other, planted = tmp_path / "other", tmp_path / "run" / name
    if name in FOLDERS:
        other.mkdir()
    else:
        other.write_text("another's")
    planted.parent.mkdir(exist_ok=True)
    if planted.exists():
        planted.rename(tmp_path / "kept")
    planted.symlink_to(other)
    with pytest.raises(ConfigError, match=f"run' is not allowed; it must be .* {name} in it is a link$"):
        session(tmp_path / "run", **FEW, resume="auto")
    assert not any(other.iterdir()) if name in FOLDERS else other.read_text() == "another's"


@pytest.mark.parametrize("name", ["journal/lock", "journal"])
def test_no_lock_is_made_through_a_link(tmp_path, name):
    (tmp_path / "other").mkdir()
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "other" / ("" if name == "journal" else "lock"))
    with pytest.raises(FolderError), held(tmp_path / "run" / "journal"):
        pass
    assert not any((tmp_path / "other").iterdir())
    if name == "journal":
        with pytest.raises(FolderError):
            Journal(tmp_path / "run" / "journal")


# -- a disk that is full or read-only --------------------------------------------------------------------------------


@contextmanager
def disk(where: Path, size: str):
    """A file system of its own, which only root can have."""
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(where)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path):
    whole, _ = run(tmp_path / "whole", arms=ARMS)
    with disk(tmp_path / "disk", "256k") as small:
        path = small / "run"

        def full(seen):
            with open(small / "ballast", "ab", buffering=0) as file:
                while seen.done and seen.state == "running":
                    try:
                        file.write(bytes(4096))
                    except OSError:
                        break

        with pytest.raises((FolderError, ExceptionGroup)) as caught:
            run_virtual(session(path, arms=ARMS, max_searches=3).run([(1.0, full)]))
        error = single(caught.value)
        assert isinstance(error, FolderError)
        said = "cannot be written (No space left on device); when it can, the same command goes on with run_dir="
        assert str(error).startswith(f"run_dir: '{path}/") and f"{said}{path}" in str(error)
        assert not list(path.rglob("*.partial"))
        s = read(path)
        assert s.state == "broken" and s.reason.startswith(f"FolderError: run_dir: '{path}/")
        (small / "ballast").unlink()
        rows, progress = run(path, arms=ARMS, max_searches=3, resume="require")
        assert same(rows) == same(whole) and progress.kept > 0


async def swallowing(ctx):
    """The disk is full while its only question is asked."""
    xs = ctx.denoise(ctx.noise(4))
    bound = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, bound[1]))
    try:
        await ctx.score(xs)
    except OSError:
        return xs[0]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bound)
    return ctx.best


def test_what_a_policy_makes_of_a_full_disk_is_not_recorded(tmp_path):
    s = session(tmp_path / "run", policy={"name": "test_folder:swallowing"}, prompts=["a"])
    with pytest.raises(ExceptionGroup) as caught:
        run_virtual(s.run())
    assert isinstance(single(caught.value), FolderError)
    assert not any(r["kind"] == "search" for r in journal.read(tmp_path / "run" / "journal"))


def test_a_file_system_that_became_read_only(tmp_path):
    with disk(tmp_path / "disk", "1m") as small:
        path = small / "run"

        run_virtual(session(path).run([]))
        s = read(path)
        (path / "status.json").write_bytes(replace(s, state="running", arms={"single": ArmStatus(2, 1)}).json())
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        found = read(path)
        assert (found.state, found.reason) == ("killed", "its file system is read-only")
        with pytest.raises(ConfigError, match="it must be a writable folder"):
            session(path, resume="require")


@pytest.mark.parametrize(
    ("run_dir", "said"),
    [
        ("x" * 300, "at most 255 bytes"),
        ("y/" + "ü" * 200 + "/z", "at most 255 bytes"),
        ("a\0b", "none of them zero"),
        ("~nobody_of_this_name/run", "home directory"),
    ],
)
def test_a_path_that_cannot_be_is_one_line(run_dir, said):
    with pytest.raises(ConfigError, match=f"run_dir: .* is not allowed; it must be the path of a folder.*{said}"):
        chosen(run_dir, "never", "name")


def test_runs_of_one_second_have_folders_of_their_own(monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "20260101-000000")
    assert len({chosen(None, "never", "quickstart") for _ in range(100)}) == 100
    assert chosen(None, "auto", "quickstart") == Path("runs/quickstart").absolute()


def test_two_runs_that_found_one_stopped_run_do_not_mix(tmp_path):
    """The other begins and ends while this one is checked; of the stopped run only an empty config.yaml was left."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()

    class Slow(FakeBackend):
        def prepare(self, *given):
            run(tmp_path / "run", seeds=[7], resume="auto")
            return super().prepare(*given)

    with pytest.raises(ConfigError, match="one in which no other run has begun meanwhile"):
        Session(config(resume="auto"), Slow(), run_dir=tmp_path / "run")
    assert "seeds:\n- 7\n" in (tmp_path / "run" / "config.yaml").read_text()


async def tidy(ctx):
    """A policy that takes a moment when it is cancelled."""
    try:
        await ctx.score(xs := ctx.denoise(ctx.noise(1)))
    finally:
        for _ in range(5):
            await asyncio.sleep(0)
    return xs[0]


def test_what_a_full_disk_stops_has_not_failed(tmp_path, monkeypatch):
    s = session(tmp_path / "run", prompts=list("abcd"), policy={"name": "test_folder:tidy"})

    def refuse(search_id, rows):
        raise FolderError("full")

    monkeypatch.setattr(s.directory.searches, "add", refuse)
    with pytest.raises(ExceptionGroup) as caught:
        run_virtual(s.run())
    assert isinstance(single(caught.value), FolderError)
    ended = [r["status"] for r in journal.read(tmp_path / "run" / "journal") if r["kind"] == "search"]
    assert set(ended) == {"done", "cancelled"}


def test_a_run_whose_folder_is_moved_away_ends_and_makes_no_other(tmp_path):
    def moved(seen):
        if seen.done and (tmp_path / "run").exists():
            (tmp_path / "run").rename(tmp_path / "moved")

    with pytest.raises((FolderError, ExceptionGroup)) as caught:
        run_virtual(session(tmp_path / "run", prompts=list("abcd"), max_searches=1).run([(1.0, moved)]))
    assert "cannot be written (No such file or directory)" in str(single(caught.value))
    assert not (tmp_path / "run").exists()
    (tmp_path / "moved").rename(tmp_path / "run")
    rows, progress = run(tmp_path / "run", prompts=list("abcd"), resume="require")
    assert len(rows) == 4 and progress.kept > 0
