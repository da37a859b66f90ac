"""Stochastic steps and the forward kernel against closed forms; the exact mixture against its own density.

On one Gaussian every step is affine in the latent and in the noise, so its coefficients, and with them the mean and
variance after any number of steps, are read off exactly: no sampling.
"""

from math import cos, pi, sin

import numpy as np
import pytest
import torch
from exact import walk

from actors.models.mixture import Mixture
from actors.sampling import solvers
from raysearch.recipe.candidate import Sampler

MU, STD = 0.7, 0.5
GAUSSIAN = Mixture(torch.ones(1).double(), torch.tensor([[MU]]).double(), torch.tensor([STD]).double())
SDES = [("flow-sde", "linear"), ("score-sde", "linear"), ("score-sde", "vp"), ("sde-dpm++", "linear")]
ETA = {"flow-sde": 0.7, "score-sde": 3.0, "sde-dpm++": None}


def solver(name: str, n: int, interpolant: str = "linear", shift: float = 3.0) -> solvers.Solver:
    sampler = Sampler(
        b"", name, n, (0.0,) * (n + 1), flow_shift=shift, stochastic=True, eta=ETA.get(name), interpolant=interpolant
    )
    return solvers.solver({}, sampler)


def moments(s: solvers.Solver) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance at every level from N(0, 1) noise: row 0 starts at 0, row 1 at 1, row 2 + i hears noise i."""
    n = s.num_steps
    x = torch.zeros(n + 2, 1)
    x[1] = 1
    noises = torch.zeros(n, n + 2, 1)
    noises[torch.arange(n), torch.arange(n) + 2] = 1
    xs = torch.stack(walk(s, GAUSSIAN, x, noises))[..., 0].double().numpy()  # (levels, rows)
    return xs[:, 0], np.square(xs[:, 1:] - xs[:, :1]).sum(1)


@pytest.mark.parametrize(("name", "interpolant"), SDES)
def test_sde_steps_keep_the_marginals_with_first_order_in_the_number_of_steps(name, interpolant):
    errors = []
    for n in (80, 160, 320) if name == "sde-dpm++" else (40, 80, 160):  # the former starts with second-order steps
        s = solver(name, n, interpolant)
        mean, variance = moments(s)
        level = s.sigmas.double().numpy()
        true_mean, true_variance = (1 - level) * MU, (1 - level) ** 2 * STD**2 + level**2
        error = np.abs(np.sqrt(variance) - np.sqrt(true_variance))
        # Flow-GRPO's g is infinite at level 1; what its first step puts in its place is felt only near there.
        errors.append([np.abs(mean - true_mean)[-1], error[level < 0.5].max()])
    mean_errors, std_errors = np.array(errors).T
    assert mean_errors[-1] < 0.006 and std_errors[-1] < 0.015
    ratios = std_errors[:-1] / std_errors[1:]
    assert (ratios > 1.5).all(), f"errors {std_errors} do not halve with twice the steps"


@pytest.mark.parametrize(("name", "interpolant"), SDES)
def test_the_last_step_hears_no_noise_and_the_others_do(name, interpolant):
    s = solver(name, 12, interpolant)
    x = torch.zeros(1, 1)
    for i in range(12):
        silent, loud = (
            walk(s, GAUSSIAN, x, [torch.full((1, 1), v if k == i else 0.0) for k in range(12)])[-1] for v in (0.0, 1.0)
        )
        assert (silent == loud).all() if i == 11 else (silent != loud).all()


def test_steps_along_the_vp_path_are_the_papers():
    """algorithms.md section 8, in the VP path's own coordinates."""
    s = solver("score-sde", 10, "vp")
    x, w = torch.tensor([[0.4]]), torch.tensor([[-1.3]])
    for i in range(9):
        t, t_next = (float(s.sigmas[k].double()) for k in (i, i + 1))
        r, r_next = (2 / pi * np.arctan2(k, 1 - k) for k in (t, t_next))
        a, sig, da, dsig = cos(pi * r / 2), sin(pi * r / 2), -pi / 2 * sin(pi * r / 2), pi / 2 * cos(pi * r / 2)
        scale, dscale = sig / t, None
        step = 1e-6
        dscale = ((sig + step * dsig) / _linear_time(r + step) - (sig - step * dsig) / _linear_time(r - step)) / (
            2 * step
        )
        dt = (_linear_time(r + step) - _linear_time(r - step)) / (2 * step)
        x_r = scale * float(x)
        v = float(GAUSSIAN.velocity(x.double(), torch.tensor([t])))
        u = dscale / scale * x_r + dt * scale * v
        score = ((a / da) * u - x_r) / (sig**2 - (a / da) * dsig * sig)
        g, h = 3.0 * r**2, r - r_next
        expected = x_r + (-u + 0.5 * g**2 * score) * h + g * h**0.5 * float(w)
        found, _ = s.step(s.start(i), torch.tensor([[v]]), x, w)
        a_next, sig_next = cos(pi * r_next / 2), sin(pi * r_next / 2)
        assert float(found) == pytest.approx(expected / (a_next + sig_next), abs=2e-4)


def _linear_time(r: float) -> float:
    """t = 1 / (1 + rho) with the amplitude ratio rho = alpha / sigma."""
    return 1 / (1 + cos(pi * r / 2) / sin(pi * r / 2))


def test_forward_kernel_marginals_at_every_pair_of_levels():
    s = solvers.solver({}, Sampler(b"", "euler", 8, (0.0,) * 9, flow_shift=3.0))
    for step in range(1, 9):
        for to in range(step):
            low, high = float(s.sigmas[step]), float(s.sigmas[to])
            zero, one = torch.zeros(1), torch.ones(1)
            a = float(s.renoise(one, step, to, zero))
            b = float(s.renoise(zero, step, to, one))
            mean, variance = (1 - low) * MU, (1 - low) ** 2 * STD**2 + low**2
            assert a * mean == pytest.approx((1 - high) * MU, abs=1e-6)
            assert a**2 * variance + b**2 == pytest.approx((1 - high) ** 2 * STD**2 + high**2, abs=1e-6)


def test_the_mixtures_velocity_is_that_of_its_density():
    torch.manual_seed(0)
    m = Mixture(
        torch.tensor([0.5, 0.2, 0.3]).double(), torch.randn(3, 2).double(), torch.tensor([0.3, 0.6, 0.1]).double()
    )
    x, s = torch.randn(50, 2).double().requires_grad_(), torch.linspace(0.05, 1, 50).double()
    (gradient,) = torch.autograd.grad(m.log_density(x, s).sum(), x)
    torch.testing.assert_close(m.score(x, s), gradient)
    torch.testing.assert_close(-(x + (1 - s[:, None]) * m.velocity(x, s)) / s[:, None], gradient)


def test_the_density_integrates_to_one_and_the_flow_carries_the_weights():
    m = Mixture(
        torch.tensor([0.3, 0.7]).double(), torch.tensor([[-2.0], [1.5]]).double(), torch.full((2,), 0.3).double()
    )
    grid = torch.linspace(-8, 8, 4001).double()[:, None]
    for level in (0.0, 0.4, 1.0):
        total = m.log_density(grid, torch.full((4001,), level).double()).exp().sum() * 16 / 4000
        assert float(total) == pytest.approx(1, abs=1e-6)
    s = solvers.solver({}, Sampler(b"", "euler", 400, (0.0,) * 401, flow_shift=1.0))
    quantiles = torch.special.ndtri((torch.arange(1000) + 0.5) / 1000).float()[:, None]
    ends = walk(s, m, quantiles, [None] * 400)[-1]
    assert float((ends < 0).float().mean()) == pytest.approx(0.3, abs=0.003)
    assert float(ends[ends < 0].mean()) == pytest.approx(-2.0, abs=0.02)
