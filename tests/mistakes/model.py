"""Model folders that are broken or unusual."""

from mistakes import Mistake

TABLE = [
    Mistake("model.height=33", "model.height: 33 is not allowed; it must be a multiple of 8 ...", heavy=True),
]
