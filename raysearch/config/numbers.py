"""The kinds of numbers in a config, all of which are finite, and those of a model's weights."""

from sys import float_info
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from raysearch.config.binding import Such

Dtype = Literal["float32", "bfloat16", "float16"]
Count = Annotated[int, Ge(1)]
Amount = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Seed = Annotated[int, Such("in 0..2^63-1", lambda seed: 0 <= seed < 2**63)]


def finite(value: Any) -> bool:
    """True for a finite number; an int that is too large for a float is none."""
    return type(value) in (int, float) and abs(value) <= float_info.max
