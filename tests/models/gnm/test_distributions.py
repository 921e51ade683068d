import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, RelaxedBernoulli, kl_divergence

from object_discovery.models.gnm.distributions import (
    STD_FLOOR,
    Gaussian,
    bernoulli_kl,
    relaxed_bernoulli,
    straight_through_clamp,
)


def test_gaussian_kl_and_log_prob_equal_torch_distributions() -> None:
    torch.manual_seed(0)
    raw = torch.randn(2, 3, 8)
    gaussian = Gaussian.from_raw(raw)
    expected = Normal(raw[..., :4], torch.nn.functional.softplus(raw[..., 4:]) + STD_FLOOR)
    other = Normal(torch.randn(4), torch.rand(4) + 0.1)
    torch.testing.assert_close(gaussian.kl(other.mean, other.stddev), kl_divergence(expected, other))
    torch.testing.assert_close(gaussian.kl(-1.5, 0.1), kl_divergence(expected, Normal(-1.5, 0.1)))
    value = torch.randn(2, 3, 4)
    torch.testing.assert_close(gaussian.log_prob(value), expected.log_prob(value))  # type: ignore[no-untyped-call]


def test_gaussian_kl_equals_monte_carlo_estimate() -> None:
    torch.manual_seed(0)
    q, p = Gaussian(torch.tensor([0.3]), torch.tensor([0.5])), Gaussian(torch.tensor([-0.2]), torch.tensor([0.8]))
    samples = Gaussian(q.mean.expand(100_000), q.std.expand(100_000)).rsample()
    log_ratio = q.log_prob(samples) - p.log_prob(samples)
    assert log_ratio.mean().item() == pytest.approx(q.kl(*p).item(), abs=0.01)


def test_gaussian_samples_have_the_moments_and_reparameterised_gradients() -> None:
    torch.manual_seed(0)
    mean, std = torch.full((50_000,), 2.0, requires_grad=True), torch.full((50_000,), 0.5, requires_grad=True)
    samples = Gaussian(mean, std).rsample()
    assert samples.mean().item() == pytest.approx(2.0, abs=0.02)
    assert samples.std().item() == pytest.approx(0.5, abs=0.02)
    samples.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(mean.grad, torch.ones_like(mean))
    torch.testing.assert_close(std.grad, ((samples - 2) / 0.5).detach())


def test_standard_deviation_has_a_floor() -> None:
    gaussian = Gaussian.from_raw(torch.tensor([0.0, -1e4]))
    assert gaussian.std.item() == pytest.approx(STD_FLOOR)
    assert gaussian.kl(0.0, 1.0).isfinite().all()


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_relaxed_bernoulli_has_the_quantiles_of_torch_distributions(tau: float) -> None:
    torch.manual_seed(0)
    logits = torch.full((40_000,), 0.7)
    samples = relaxed_bernoulli(logits, tau).sort().values
    expected = RelaxedBernoulli(torch.tensor(tau), logits=logits).sample().sort().values  # type: ignore[no-untyped-call]
    assert (samples - expected).abs().max() < 0.02  # between equal quantiles
    assert (samples > 0.5).float().mean().item() == pytest.approx(1 / (1 + math.exp(-0.7)), abs=0.01)


def test_relaxed_bernoulli_has_the_analytic_gradient() -> None:
    logits = torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    samples = relaxed_bernoulli(logits, 0.5)
    samples.sum().backward()  # type: ignore[no-untyped-call]
    values = samples.detach().double()
    torch.testing.assert_close(logits.grad, values * (1 - values) / 0.5, rtol=1e-4, atol=1e-6)


def test_bernoulli_kl_equals_torch_distributions_and_is_finite() -> None:
    logits = torch.tensor([-8.8, -1.0, 0.0, 3.0, 8.8])
    other = torch.tensor([1.0, -2.0, 0.5, 3.0, -8.8])
    expected = kl_divergence(Bernoulli(logits=logits), Bernoulli(logits=other))
    torch.testing.assert_close(bernoulli_kl(logits, other), expected)
    torch.testing.assert_close(
        bernoulli_kl(logits, -2.0), kl_divergence(Bernoulli(logits=logits), Bernoulli(logits=torch.tensor(-2.0)))
    )
    extreme = torch.tensor([200.0, -200.0], requires_grad=True)
    divergence = bernoulli_kl(extreme, -extreme.detach())
    divergence.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(divergence, torch.tensor([200.0, 200.0]))
    assert extreme.grad is not None
    assert extreme.grad.isfinite().all()


def test_straight_through_clamp_has_identity_gradient() -> None:
    values = torch.tensor([-0.5, 0.2, 1.7], requires_grad=True)
    clamped = straight_through_clamp(values, 0.0, 1.0)
    torch.testing.assert_close(clamped, torch.tensor([0.0, 0.2, 1.0]))
    (clamped * torch.tensor([1.0, 2.0, 3.0])).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(values.grad, torch.tensor([1.0, 2.0, 3.0]))


def test_noise_scale_multiplies_the_standard_deviation() -> None:
    torch.manual_seed(0)
    gaussian = Gaussian(torch.randn(1000), torch.ones(1000))
    assert torch.equal(gaussian.rsample(0.0), gaussian.mean)
    assert (gaussian.rsample(0.5) - gaussian.mean).std().item() == pytest.approx(0.5, rel=0.1)
