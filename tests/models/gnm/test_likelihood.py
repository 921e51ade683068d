import torch
from torch.distributions import Bernoulli, Normal

from object_discovery.models.gnm.distributions import Gaussian
from object_discovery.models.gnm.likelihood import log_ratio
from object_discovery.models.gnm.local_latents import ObjectDistribution
from object_discovery.models.gnm.prior import GlobalLatent


def gaussian(*shape: int) -> Gaussian:
    return Gaussian(torch.randn(shape), torch.rand(shape) + 0.1)


def objects() -> ObjectDistribution:
    return ObjectDistribution(torch.randn(3, 4), *(gaussian(3, 4, size) for size in (4, 1, 5)))


def test_the_ratio_agrees_with_torch() -> None:
    torch.manual_seed(0)
    inferred, expected, background, expected_background = objects(), objects(), gaussian(3, 6), gaussian(3, 6)
    drawn, of_background = inferred.draw(), background.sample()
    latent = GlobalLatent(torch.randn(3, 2, 7), gaussian(3, 2, 7), gaussian(3, 2, 7), torch.zeros(0))
    found = log_ratio(drawn, inferred, expected, of_background, background, expected_background, latent)
    pairs = [
        (Bernoulli(logits=expected.presence), Bernoulli(logits=inferred.presence), drawn.presence),
        *((Normal(*p), Normal(*q), z) for p, q, z in zip(expected[1:], inferred[1:], drawn[1:], strict=True)),
        (Normal(*expected_background), Normal(*background), of_background),
        (Normal(*latent.prior), Normal(*latent.posterior), latent.samples),
    ]
    by_hand = sum((p.log_prob(z) - q.log_prob(z)).flatten(1).sum(1) for p, q, z in pairs)
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-4)
