"""Whether the pictures and videos that a config names can be read, found out before anything is loaded."""

from pathlib import Path

import av
from PIL import Image

from raysearch.errors import ConfigError


def is_file(path: Path) -> bool:
    """Whether it is one; also of names that none can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def check_picture(key: str, name: str, path: Path) -> None:
    """Raises ConfigError unless `path`, which the config calls `name`, is a picture."""
    try:
        with Image.open(path) as picture:
            picture.load()  # all of it: of some formats `verify` sees the header alone
    except Exception as error:  # Pillow has no one error for what is no picture
        raise ConfigError(f"{key}: {name!r} is no picture that Pillow can read") from error


def check_video(key: str, name: str, path: Path) -> None:
    """Raises ConfigError unless `path`, which the config calls `name`, is a video."""
    try:
        with av.open(str(path)) as container:
            next(container.decode(video=0))
    except Exception as error:  # nor has PyAV
        raise ConfigError(f"{key}: {name!r} is no video that PyAV can read") from error
