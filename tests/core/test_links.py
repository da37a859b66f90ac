"""How a new folder is filled with files of a run: no link is followed, and a killed export is told of."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raysearch.errors import ConfigError
from raysearch.export import links

KILLED = """
import os, signal, sys
from pathlib import Path
from raysearch.export.links import fresh
with fresh(Path(sys.argv[1])) as folder:
    (folder / "video.mp4").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """A folder with a video, a link to a secret, and a link to a folder with a secret."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.mp4").write_text("secret")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "video.mp4").write_text("video")
    (folder / "link.mp4").symlink_to(tmp_path / "outside" / "secret.mp4")
    (folder / "inner").symlink_to(tmp_path / "outside")
    return folder


def test_only_plain_files_of_the_run_are_its_files(run_dir):
    assert links.file_in(run_dir, "video.mp4") == run_dir / "video.mp4"
    for file in ("link.mp4", "inner/secret.mp4", "../outside/secret.mp4", str(run_dir / "video.mp4"), ".", "", "none"):
        with pytest.raises(ConfigError, match="a file of the run, and no link"):
            links.file_in(run_dir, file)


@pytest.mark.parametrize("copied", [False, True])
def test_a_link_that_comes_after_the_check_is_not_followed(tmp_path, run_dir, monkeypatch, copied):
    def apart(*args, **more):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(links, "file_in", lambda run_dir, file: run_dir / file)
    if copied:
        monkeypatch.setattr(os, "link", apart)
    assert links.link(run_dir, "link.mp4", tmp_path / "out" / "x.mp4") == copied
    assert (tmp_path / "out" / "x.mp4").is_symlink()  # the link itself, and nothing of the secret


def test_a_link_is_no_new_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, target in (("dangling", "none"), ("link", "empty")):
        (tmp_path / name).symlink_to(tmp_path / target)
        with pytest.raises(ConfigError, match="a new or empty folder"):
            links.check_new(tmp_path / name)


def test_a_killed_export_is_told_of(tmp_path):
    out = tmp_path / "out"
    assert subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    partial = tmp_path / "out.partial"
    with pytest.raises(ConfigError, match=r"without '.*out\.partial' beside it, which a killed export has left"):
        links.check_new(out)
    (partial / "video.mp4").unlink()
    partial.rmdir()
    with links.fresh(out) as folder:
        (folder / "video.mp4").touch()
    assert [p.name for p in out.iterdir()] == ["video.mp4"]
