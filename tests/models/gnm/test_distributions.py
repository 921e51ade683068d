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


def test_gaussians_agree_with_torch() -> None:
    torch.manual_seed(0)
    raw = torch.randn(2, 3, 8)
    found = Gaussian.of(raw)
    expected = Normal(raw[..., :4], torch.nn.functional.softplus(raw[..., 4:]) + STD_FLOOR)
    other = Normal(torch.randn(4), torch.rand(4) + 0.1)
    torch.testing.assert_close(found.kl(other.mean, other.stddev), kl_divergence(expected, other))
    torch.testing.assert_close(found.kl(-1.5, 0.1), kl_divergence(expected, Normal(-1.5, 0.1)))
    value = torch.randn(2, 3, 4)
    torch.testing.assert_close(found.log_prob(value), expected.log_prob(value))  # type: ignore[no-untyped-call]


def test_the_divergence_is_what_samples_say() -> None:
    torch.manual_seed(0)
    one, other = Gaussian(torch.tensor([0.3]), torch.tensor([0.5])), Gaussian(torch.tensor([-0.2]), torch.tensor([0.8]))
    many = Gaussian(one.mean.expand(100_000), one.std.expand(100_000))
    samples = many.sample()
    ratio = many.log_prob(samples) - Gaussian(other.mean, other.std).log_prob(samples)
    assert ratio.mean().item() == pytest.approx(one.kl(*other).item(), abs=0.01)


def test_samples_are_differentiable_and_of_their_distribution() -> None:
    torch.manual_seed(0)
    mean, std = torch.full((50_000,), 2.0, requires_grad=True), torch.full((50_000,), 0.5, requires_grad=True)
    samples = Gaussian(mean, std).sample()
    assert samples.mean().item() == pytest.approx(2.0, abs=0.02)
    assert samples.std().item() == pytest.approx(0.5, abs=0.02)
    samples.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(mean.grad, torch.ones_like(mean))
    torch.testing.assert_close(std.grad, ((samples - 2) / 0.5).detach())


def test_no_standard_deviation_vanishes() -> None:
    tiny = Gaussian.of(torch.tensor([0.0, -1e4]))
    assert tiny.std.item() == pytest.approx(STD_FLOOR)
    assert tiny.kl(0.0, 1.0).isfinite().all()


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_relaxed_bernoulli_has_the_distribution_of_torchs(tau: float) -> None:
    torch.manual_seed(0)
    logits = torch.full((40_000,), 0.7)
    found = relaxed_bernoulli(logits, tau).sort().values
    expected = RelaxedBernoulli(torch.tensor(tau), logits=logits).sample().sort().values  # type: ignore[no-untyped-call]
    assert (found - expected).abs().max() < 0.02  # quantile by quantile
    assert (found > 0.5).float().mean().item() == pytest.approx(1 / (1 + math.exp(-0.7)), abs=0.01)


def test_relaxed_bernoulli_has_the_gradient_of_its_formula() -> None:
    logits = torch.tensor([0.5, -2.0], dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    samples = relaxed_bernoulli(logits, 0.5)
    samples.sum().backward()  # type: ignore[no-untyped-call]
    values = samples.detach().double()
    torch.testing.assert_close(logits.grad, values * (1 - values) / 0.5, rtol=1e-4, atol=1e-6)


def test_bernoulli_kl_agrees_with_torch_and_stays_finite() -> None:
    logits = torch.tensor([-8.8, -1.0, 0.0, 3.0, 8.8])
    other = torch.tensor([1.0, -2.0, 0.5, 3.0, -8.8])
    expected = kl_divergence(Bernoulli(logits=logits), Bernoulli(logits=other))
    torch.testing.assert_close(bernoulli_kl(logits, other), expected)
    torch.testing.assert_close(
        bernoulli_kl(logits, -2.0), kl_divergence(Bernoulli(logits=logits), Bernoulli(logits=torch.tensor(-2.0)))
    )
    far = torch.tensor([200.0, -200.0], requires_grad=True)
    divergence = bernoulli_kl(far, -far.detach())
    divergence.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(divergence, torch.tensor([200.0, 200.0]))
    assert far.grad is not None
    assert far.grad.isfinite().all()


def test_a_straight_through_clamp_clamps_the_values_alone() -> None:
    values = torch.tensor([-0.5, 0.2, 1.7], requires_grad=True)
    clamped = straight_through_clamp(values, 0.0, 1.0)
    torch.testing.assert_close(clamped, torch.tensor([0.0, 0.2, 1.0]))
    (clamped * torch.tensor([1.0, 2.0, 3.0])).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(values.grad, torch.tensor([1.0, 2.0, 3.0]))


def test_samples_without_noise_are_the_mean() -> None:
    torch.manual_seed(0)
    gaussian = Gaussian(torch.randn(1000), torch.ones(1000))
    assert torch.equal(gaussian.sample(0.0), gaussian.mean)
    assert (gaussian.sample(0.5) - gaussian.mean).std().item() == pytest.approx(0.5, rel=0.1)
