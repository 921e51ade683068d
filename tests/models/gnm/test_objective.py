import pytest
import torch
from torch.distributions import Normal, kl_divergence

from object_discovery import GNMParams
from object_discovery.models.gnm.distributions import Gaussian
from object_discovery.models.gnm.local_latents import ObjectDistribution, Objects
from object_discovery.models.gnm.objective import (
    auxiliary_divergences,
    divergences,
    elbo,
    loss,
    negative_log_likelihood,
    robust_cost,
    weights_at,
)
from object_discovery.models.gnm.prior import GlobalLatent

PUBLISHED = GNMParams(
    covered_steps=500,
    tau=[1.0, 0.5, 1000, 20_000],
    presence_prior=[0.1, 0.001, 0, 4000],
    global_weight=[0.0, 1.0, 0, 100_000],
    where_weight=[10.0, 1.0, 0, 500],
    background_weight=[50.0, 1.0, 0, 50_000],
    latent_noise=[1.0, 1.0, 0, 0],
    latent_weight=[1.0, 1.0, 0, 0],
    presence_reach=[1.0, 1.0, 0, 0],
    background_steps=0,
)


def gaussian(*shape: int) -> Gaussian:
    return Gaussian(torch.randn(shape), torch.rand(shape) + 0.1)


def objects(batch: int = 3, count: int = 4) -> ObjectDistribution:
    sizes = (4, 1, 5)
    return ObjectDistribution(torch.randn(batch, count), *(gaussian(batch, count, size) for size in sizes))


@pytest.mark.parametrize(
    ("step", "tau", "global_kl", "presence", "where", "background", "coverage"),
    [
        (0, 1.0, 0.0, 0.1 - 0.099 / 4000, 10.0, 50.0, 0.9),
        (250, 1.0, 0.0025, 0.1 - 0.099 * 251 / 4000, 5.5, 50 - 49 * 250 / 50_000, 0.9),
        (498, 1.0, 0.00498, 0.1 - 0.099 * 499 / 4000, 10 - 9 * 498 / 500, 50 - 49 * 498 / 50_000, 0.9),
        (499, 1.0, 0.00499, 0.1 - 0.099 * 500 / 4000, 10 - 9 * 499 / 500, 50 - 49 * 499 / 50_000, None),
        (10_500, 0.75, 0.105, 0.001, 1.0, 50 - 49 * 0.21, None),
        (100_000, 0.5, 1.0, 0.001, 1.0, 1.0, None),
    ],
)
def test_published_schedules(
    step: int, tau: float, global_kl: float, presence: float, where: float, background: float, coverage: float | None
) -> None:
    found = weights_at(PUBLISHED, step)
    assert found[:5] == pytest.approx((tau, global_kl, presence, where, background))
    assert found[5:9] == (1.0, 1.0, 1.0, False)
    assert found.coverage == coverage


def test_the_cost_of_an_image_is_its_gaussian_density() -> None:
    torch.manual_seed(0)
    image, target = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    expected = -Normal(image, 0.3).log_prob(target).sum((1, 2, 3))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(negative_log_likelihood(image, target, 0.3), expected)


def test_the_latents_are_let_in_gradually() -> None:
    params = GNMParams(
        latent_noise=[0.0, 1.0, 100, 200],
        latent_weight=[0.1, 0.5, 0, 100],
        presence_reach=[0.2, 1.0, 50, 150],
        background_steps=50,
    )
    assert weights_at(params, 49)[5:9] == pytest.approx((0.0, 0.1 + 0.4 * 0.49, 0.2, True))
    assert weights_at(params, 100)[5:9] == pytest.approx((0.0, 0.5, 0.6, False))
    names = ("nll", "background_nll", "kl_what", "kl_global", "aux_presence", "aux_where", "aux_background")
    parts = {name: torch.tensor(2.0**number) for number, name in enumerate(names)}
    weights = weights_at(params, 100)._replace(global_kl=0.25, where=3.0, background=7.0)
    expected = 1 + 2 + 0.5 * 4 + 0.5 * 0.25 * 8 + 16 + 0.5 * 3 * 32 + 7 * 64
    assert loss(parts, weights).item() == pytest.approx(expected)
    assert elbo(parts).item() == pytest.approx(-(1 + 4 + 8))


def test_the_robust_cost_leaves_objects_out() -> None:
    """Its best constant is the colour of most pixels, where that of squares is the mean."""
    target = torch.zeros(1, 3, 4, 4)
    target[..., 3] = 1
    levels = torch.linspace(0, 1, 101)
    for bounded, cost in ((True, 0.0), (False, 0.0)):
        costs = torch.stack(
            [robust_cost(torch.full_like(target, v), target, 0.2, 0.05, bounded=bounded) for v in levels]
        )
        assert levels[costs.argmin()] == pytest.approx(cost, abs=0.03)
    squares = torch.stack([negative_log_likelihood(torch.full_like(target, v), target, 0.2) for v in levels])
    assert levels[squares.argmin()] == pytest.approx(0.25)


@pytest.mark.parametrize("bounded", [True, False])
def test_the_robust_cost_is_that_of_squares_near_the_target(bounded: bool) -> None:
    torch.manual_seed(0)
    target = torch.rand(2, 3, 4, 4)
    image = target + 1e-3 * torch.randn_like(target)
    exact = negative_log_likelihood(image, target, 0.2) - negative_log_likelihood(target, target, 0.2)
    torch.testing.assert_close(robust_cost(image, target, 0.2, 0.5, bounded=bounded), exact, rtol=1e-2, atol=1e-3)


def test_divergences_agree_with_torch() -> None:
    torch.manual_seed(0)
    one, other, background, expected = objects(), objects(), gaussian(3, 6), gaussian(3, 6)
    posterior, prior = gaussian(3, 2, 7), gaussian(3, 2, 7)
    latent = GlobalLatent(torch.zeros(3, 2, 7), posterior, prior, torch.zeros(0))
    found = divergences(one, other, background, expected, latent)
    pairs = {
        "kl_where": (one.where, other.where),
        "kl_depth": (one.depth, other.depth),
        "kl_what": (one.what, other.what),
        "kl_background": (background, expected),
        "kl_global": (posterior, prior),
    }
    for name, (q, p) in pairs.items():
        torch.testing.assert_close(found[name], kl_divergence(Normal(*q), Normal(*p)).flatten(1).sum(1))
    chances = one.presence.sigmoid(), other.presence.sigmoid()
    by_hand = (
        chances[0] * (chances[0] / chances[1]).log() + (1 - chances[0]) * ((1 - chances[0]) / (1 - chances[1])).log()
    )
    torch.testing.assert_close(found["kl_presence"], by_hand.sum(1))
    assert found.keys() == {*pairs, "kl_presence"}


def test_auxiliary_divergences_count_as_far_as_objects_are_there() -> None:
    torch.manual_seed(0)
    q, background = objects(), gaussian(3, 6)
    presence = torch.rand(3, 4)
    presence[0] = 0
    drawn = Objects(presence, *(torch.zeros(0),) * 3)
    found = auxiliary_divergences(q, drawn, background, 0.01, -1.6)
    prior = Normal(torch.tensor([-1.6, 0, 0, 0]), torch.tensor([0.1, 0.3, 1, 1]))
    there = presence.clamp_min(1e-5)
    where = (kl_divergence(Normal(*q.where), prior).sum(-1) * there).sum(1)
    torch.testing.assert_close(found["aux_where"], where)
    for name, part in (("aux_depth", q.depth), ("aux_what", q.what)):
        expected = (kl_divergence(Normal(*part), Normal(0.0, 1.0)).sum(-1) * there).sum(1)
        torch.testing.assert_close(found[name], expected)
    torch.testing.assert_close(found["aux_background"], kl_divergence(Normal(*background), Normal(0.0, 1.0)).sum(1))
    chance = q.presence.sigmoid()
    by_hand = chance * (chance / 0.01).log() + (1 - chance) * ((1 - chance) / 0.99).log()
    torch.testing.assert_close(found["aux_presence"], by_hand.sum(1), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_the_auxiliary_terms_reaches_the_presence() -> None:
    presence = torch.full((3, 4), 0.5, requires_grad=True)
    drawn = Objects(presence, *(torch.zeros(0),) * 3)
    auxiliary_divergences(objects(), drawn, gaussian(3, 6), 0.01, -1.5)["aux_what"].sum().backward()  # type: ignore[no-untyped-call]
    assert presence.grad is not None
    assert (presence.grad > 0).all()


def test_the_loss_weighs_three_terms_and_the_elbo_none() -> None:
    own = ("nll", "kl_presence", "kl_where", "kl_depth", "kl_what", "kl_background", "kl_global")
    names = (*own, "aux_presence", "aux_where", "aux_depth", "aux_what", "aux_background")
    parts = {name: torch.tensor([2.0**number]) for number, name in enumerate(names)}
    weights = weights_at(PUBLISHED, 10_000)._replace(global_kl=0.25, where=3.0, background=7.0)
    total = sum(2.0**number for number in range(12))
    expected = total + (0.25 - 1) * 2**6 + (3 - 1) * 2**8 + (7 - 1) * 2**11
    assert loss(parts, weights).item() == pytest.approx(expected)
    assert elbo(parts).item() == pytest.approx(-sum(2.0**number for number in range(7)))
