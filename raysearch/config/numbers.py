"""The kinds of numbers in a config. All of them are finite."""

from typing import Annotated

from annotated_types import Ge, Gt

from raysearch.config.binding import Such

Count = Annotated[int, Ge(1)]
Amount = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Seed = Annotated[int, Such("in 0..2^63-1", lambda seed: 0 <= seed < 2**63)]
