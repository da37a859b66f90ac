"""All resamplers at once: unbiased, of the right length, and in the known order of their variances."""

import numpy as np
import pytest

from policies.resampling import RESAMPLERS, ess, log_mean_exp, softmax

W = np.array([0.02, 0.4, 0.13, 0.0, 0.25, 0.2])
RUNS, N = 20_000, 7


def counts(name: str, w: np.ndarray, n: int, runs: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([np.bincount(RESAMPLERS[name](rng, w, n), minlength=len(w)) for _ in range(runs)])


@pytest.mark.parametrize("name", RESAMPLERS)
def test_unbiased_sorted_and_complete(name):
    c = counts(name, W, N, RUNS)
    assert (c.sum(1) == N).all()
    error = c.std(0) / np.sqrt(RUNS)
    assert (np.abs(c.mean(0) - N * W) <= 4 * error + 1e-9).all()
    assert (c[:, 3] == 0).all()
    a = RESAMPLERS[name](np.random.default_rng(1), W, N)
    assert (np.diff(a) >= 0).all()


@pytest.mark.parametrize("name", ["systematic", "ssp"])
def test_copies_are_the_expectation_rounded(name):
    c = counts(name, W, N, 2000)
    assert (c >= np.floor(N * W - 1e-9)).all() and (c <= np.ceil(N * W + 1e-9)).all()


def test_variance_order():
    v = {name: counts(name, W, N, RUNS).var(0).sum() for name in RESAMPLERS}
    assert v["residual"] < 0.8 * v["multinomial"]
    assert v["ssp"] < 0.8 * v["residual"] and v["systematic"] < 0.8 * v["residual"]
    # multinomial counts have variance n w (1 - w)
    assert v["multinomial"] == pytest.approx((N * W * (1 - W)).sum(), rel=0.03)


@pytest.mark.parametrize("name", RESAMPLERS)
@pytest.mark.parametrize("w", [np.ones(1), np.full(8, 1 / 8), np.array([0.0, 1.0, 0.0]), np.array([1 / 3] * 3)])
def test_corner_weights(name, w):
    for seed in range(50):
        a = RESAMPLERS[name](np.random.default_rng(seed), w, len(w))
        assert len(a) == len(w) and (w[a] > 0).all()
        if name != "multinomial" and np.allclose(w, 1 / len(w)):
            assert a.tolist() == list(range(len(w)))


def test_weights_stay_in_logs():
    log_w = np.array([1000.0, 1000.0 + np.log(3), -np.inf])
    np.testing.assert_allclose(softmax(log_w), [0.25, 0.75, 0])
    assert ess(log_w) == pytest.approx(1 / (0.25**2 + 0.75**2))
    assert log_mean_exp(np.array([1000.0, 1000.0])) == 1000.0
