"""raysearch: distributed search over the noises and paths of video diffusion models."""

from raysearch.api import Result, arun, open, run
from raysearch.errors import BudgetExhausted
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context

__all__ = ["BudgetExhausted", "Candidate", "Context", "Result", "__version__", "arun", "open", "run"]

__version__ = "0.2.0"
