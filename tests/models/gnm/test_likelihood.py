import torch
from torch.distributions import Bernoulli, Normal

from object_discovery.models.gnm.distributions import Gaussian
from object_discovery.models.gnm.likelihood import log_prior_posterior_ratio
from object_discovery.models.gnm.local_latents import ObjectDistribution
from object_discovery.models.gnm.struct_draw import GlobalLatent


def random_gaussian(*shape: int) -> Gaussian:
    return Gaussian(torch.randn(shape), torch.rand(shape) + 0.1)


def random_objects() -> ObjectDistribution:
    return ObjectDistribution(torch.randn(3, 4), *(random_gaussian(3, 4, size) for size in (4, 1, 5)))


def test_log_ratio_equals_torch_distributions() -> None:
    torch.manual_seed(0)
    posterior, prior = random_objects(), random_objects()
    background_posterior, background_prior = random_gaussian(3, 6), random_gaussian(3, 6)
    objects, background = posterior.sample(), background_posterior.rsample()
    latent = GlobalLatent(torch.randn(3, 2, 7), random_gaussian(3, 2, 7), random_gaussian(3, 2, 7), torch.zeros(0))
    log_ratio = log_prior_posterior_ratio(
        objects, posterior, prior, background, background_posterior, background_prior, latent
    )
    terms = [
        (Bernoulli(logits=prior.presence), Bernoulli(logits=posterior.presence), objects.presence),
        *((Normal(*p), Normal(*q), z) for p, q, z in zip(prior[1:], posterior[1:], objects[1:], strict=True)),
        (Normal(*background_prior), Normal(*background_posterior), background),
        (Normal(*latent.prior), Normal(*latent.posterior), latent.samples),
    ]
    expected = sum((p.log_prob(z) - q.log_prob(z)).flatten(1).sum(1) for p, q, z in terms)
    torch.testing.assert_close(log_ratio, expected, rtol=1e-4, atol=1e-4)
