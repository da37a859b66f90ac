"""raysearch: distributed search over the noises and paths of video diffusion models."""

__version__ = "0.1.0"
