"""Pure kernels that policies share: weights and resampling. The generator comes first; weights stay in logs."""

import numpy as np


def softmax(log_w: np.ndarray) -> np.ndarray:
    """Normalised weights, (n,)."""
    w = np.exp(log_w - np.max(log_w))
    normalised: np.ndarray = w / w.sum()
    return normalised


def multinomial(rng: np.random.Generator, w: np.ndarray, n: int) -> np.ndarray:
    """n ancestors drawn independently with probabilities w, (n,), ascending."""
    return np.sort(rng.choice(len(w), size=n, p=w))
