"""raysearch: distributed search over the noises and paths of video diffusion models."""

from raysearch.api import Result, run

__all__ = ["Result", "__version__", "run"]

__version__ = "0.2.0"
