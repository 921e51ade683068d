import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from object_discovery import GNMParams
from object_discovery.models.gnm.distributions import Gaussian
from object_discovery.models.gnm.local_latents import ObjectDistribution, ObjectLatents
from object_discovery.models.gnm.objective import (
    auxiliary_kl_terms,
    elbo,
    kl_terms,
    negative_log_likelihood,
    robust_reconstruction_loss,
    schedule_values,
    weighted_loss,
)
from object_discovery.models.gnm.struct_draw import GlobalLatent

PUBLISHED = GNMParams(
    forced_alpha_steps=500,
    tau=[1.0, 0.5, 1000, 20_000],
    presence_prior=[0.1, 0.001, 0, 4000],
    global_kl_weight=[0.0, 1.0, 0, 100_000],
    where_kl_weight=[10.0, 1.0, 0, 500],
    background_kl_weight=[50.0, 1.0, 0, 50_000],
    noise_scale=[1.0, 1.0, 0, 0],
    kl_weight=[1.0, 1.0, 0, 0],
    bound_fraction=[1.0, 1.0, 0, 0],
    background_steps=0,
)


def random_gaussian(*shape: int) -> Gaussian:
    return Gaussian(torch.randn(shape), torch.rand(shape) + 0.1)


def random_objects(batch: int = 3, count: int = 4) -> ObjectDistribution:
    sizes = (4, 1, 5)
    return ObjectDistribution(torch.randn(batch, count), *(random_gaussian(batch, count, size) for size in sizes))


@pytest.mark.parametrize(
    ("step", "tau", "global_kl", "presence", "where", "background", "forced_alpha"),
    [
        (0, 1.0, 0.0, 0.1 - 0.099 / 4000, 10.0, 50.0, 0.9),
        (250, 1.0, 0.0025, 0.1 - 0.099 * 251 / 4000, 5.5, 50 - 49 * 250 / 50_000, 0.9),
        (498, 1.0, 0.00498, 0.1 - 0.099 * 499 / 4000, 10 - 9 * 498 / 500, 50 - 49 * 498 / 50_000, 0.9),
        (499, 1.0, 0.00499, 0.1 - 0.099 * 500 / 4000, 10 - 9 * 499 / 500, 50 - 49 * 499 / 50_000, None),
        (10_500, 0.75, 0.105, 0.001, 1.0, 50 - 49 * 0.21, None),
        (100_000, 0.5, 1.0, 0.001, 1.0, 1.0, None),
    ],
)
def test_schedules_are_those_published(
    step: int,
    tau: float,
    global_kl: float,
    presence: float,
    where: float,
    background: float,
    forced_alpha: float | None,
) -> None:
    values = schedule_values(PUBLISHED, step)
    assert values[:5] == pytest.approx((tau, global_kl, presence, where, background))
    assert values[5:9] == (1.0, 1.0, 1.0, False)
    assert values.forced_alpha == forced_alpha


def test_negative_log_likelihood_equals_torch_distributions() -> None:
    torch.manual_seed(0)
    mean, target = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    expected = -Normal(mean, 0.3).log_prob(target).sum((1, 2, 3))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(negative_log_likelihood(mean, target, 0.3), expected)


def test_schedules_of_noise_kl_weight_and_presence_bound() -> None:
    params = GNMParams(
        noise_scale=[0.0, 1.0, 100, 200],
        kl_weight=[0.1, 0.5, 0, 100],
        bound_fraction=[0.2, 1.0, 50, 150],
        background_steps=50,
    )
    assert schedule_values(params, 49)[5:9] == pytest.approx((0.0, 0.1 + 0.4 * 0.49, 0.2, True))
    assert schedule_values(params, 100)[5:9] == pytest.approx((0.0, 0.5, 0.6, False))
    names = ("nll", "background_nll", "kl_what", "kl_global", "aux_presence", "aux_where", "aux_background")
    terms = {name: torch.tensor(2.0**power) for power, name in enumerate(names)}
    schedule = schedule_values(params, 100)._replace(
        global_kl_weight=0.25, where_kl_weight=3.0, background_kl_weight=7.0
    )
    expected = 1 + 2 + 0.5 * 4 + 0.5 * 0.25 * 8 + 16 + 0.5 * 3 * 32 + 7 * 64
    assert weighted_loss(terms, schedule).item() == pytest.approx(expected)
    assert elbo(terms).item() == pytest.approx(-(1 + 4 + 8))


def test_robust_loss_ignores_occluded_pixels() -> None:
    """The optimal constant is the colour of most pixels; that of the Gaussian likelihood is the mean."""
    target = torch.zeros(1, 3, 4, 4)
    target[..., 3] = 1
    levels = torch.linspace(0, 1, 101)
    images = [torch.full_like(target, level) for level in levels]
    for bounded in (True, False):
        losses = torch.stack([robust_reconstruction_loss(x, target, 0.2, 0.05, bounded=bounded) for x in images])
        assert levels[losses.argmin()] == pytest.approx(0.0, abs=0.03)
    losses = torch.stack([negative_log_likelihood(x, target, 0.2) for x in images])
    assert levels[losses.argmin()] == pytest.approx(0.25)


@pytest.mark.parametrize("bounded", [True, False])
def test_robust_loss_equals_the_gaussian_one_for_small_errors(bounded: bool) -> None:
    torch.manual_seed(0)
    target = torch.rand(2, 3, 4, 4)
    image = target + 1e-3 * torch.randn_like(target)
    gaussian = negative_log_likelihood(image, target, 0.2) - negative_log_likelihood(target, target, 0.2)
    robust = robust_reconstruction_loss(image, target, 0.2, 0.5, bounded=bounded)
    torch.testing.assert_close(robust, gaussian, rtol=1e-2, atol=1e-3)


def test_kl_terms_equal_torch_distributions() -> None:
    torch.manual_seed(0)
    posterior, prior = random_objects(), random_objects()
    background_posterior, background_prior = random_gaussian(3, 6), random_gaussian(3, 6)
    latent = GlobalLatent(torch.zeros(3, 2, 7), random_gaussian(3, 2, 7), random_gaussian(3, 2, 7), torch.zeros(0))
    terms = kl_terms(posterior, prior, background_posterior, background_prior, latent)
    pairs = {
        "kl_where": (posterior.where, prior.where),
        "kl_depth": (posterior.depth, prior.depth),
        "kl_what": (posterior.what, prior.what),
        "kl_background": (background_posterior, background_prior),
        "kl_global": (latent.posterior, latent.prior),
    }
    for name, (q, p) in pairs.items():
        torch.testing.assert_close(terms[name], kl_divergence(Normal(*q), Normal(*p)).flatten(1).sum(1))
    presence = kl_divergence(Bernoulli(logits=posterior.presence), Bernoulli(logits=prior.presence))
    torch.testing.assert_close(terms["kl_presence"], presence.sum(1))
    assert terms.keys() == {*pairs, "kl_presence"}


def test_auxiliary_kl_terms_are_weighted_by_presence() -> None:
    torch.manual_seed(0)
    q, background = random_objects(), random_gaussian(3, 6)
    presence = torch.rand(3, 4)
    presence[0] = 0
    samples = ObjectLatents(presence, *(torch.zeros(0),) * 3)
    terms = auxiliary_kl_terms(q, samples, background, 0.01, -1.6)
    prior = Normal(torch.tensor([-1.6, 0, 0, 0]), torch.tensor([0.1, 0.3, 1, 1]))
    weights = presence.clamp_min(1e-5)
    where = (kl_divergence(Normal(*q.where), prior).sum(-1) * weights).sum(1)
    torch.testing.assert_close(terms["aux_where"], where)
    for name, gaussian in (("aux_depth", q.depth), ("aux_what", q.what)):
        expected = (kl_divergence(Normal(*gaussian), Normal(0.0, 1.0)).sum(-1) * weights).sum(1)
        torch.testing.assert_close(terms[name], expected)
    torch.testing.assert_close(terms["aux_background"], kl_divergence(Normal(*background), Normal(0.0, 1.0)).sum(1))
    presence_kl = kl_divergence(Bernoulli(logits=q.presence), Bernoulli(torch.tensor(0.01)))
    torch.testing.assert_close(terms["aux_presence"], presence_kl.sum(1), rtol=1e-4, atol=1e-5)


def test_auxiliary_kl_terms_have_a_gradient_to_presence() -> None:
    presence = torch.full((3, 4), 0.5, requires_grad=True)
    samples = ObjectLatents(presence, *(torch.zeros(0),) * 3)
    terms = auxiliary_kl_terms(random_objects(), samples, random_gaussian(3, 6), 0.01, -1.5)
    terms["aux_what"].sum().backward()  # type: ignore[no-untyped-call]
    assert presence.grad is not None
    assert (presence.grad > 0).all()


def test_loss_weights_three_terms_and_the_elbo_none() -> None:
    own = ("nll", "kl_presence", "kl_where", "kl_depth", "kl_what", "kl_background", "kl_global")
    names = (*own, "aux_presence", "aux_where", "aux_depth", "aux_what", "aux_background")
    terms = {name: torch.tensor([2.0**power]) for power, name in enumerate(names)}
    schedule = schedule_values(PUBLISHED, 10_000)
    schedule = schedule._replace(global_kl_weight=0.25, where_kl_weight=3.0, background_kl_weight=7.0)
    total = sum(2.0**power for power in range(12))
    expected = total + (0.25 - 1) * 2**6 + (3 - 1) * 2**8 + (7 - 1) * 2**11
    assert weighted_loss(terms, schedule).item() == pytest.approx(expected)
    assert elbo(terms).item() == pytest.approx(-sum(2.0**power for power in range(7)))
