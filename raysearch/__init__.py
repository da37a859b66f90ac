"""raysearch: distributed search over the noises and paths of video diffusion models."""

__all__ = ["__version__"]

__version__ = "0.1.0"
