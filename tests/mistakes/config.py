"""Keys and values of a config."""

from mistakes import Mistake

TABLE = [
    Mistake("polcy.name=single", "polcy: unknown key (did you mean 'policy'?); allowed here: model, sampler, ..."),
    Mistake("sampler.num_steps=0", "sampler.num_steps: 0 is not allowed; it must be at least 1"),
]
