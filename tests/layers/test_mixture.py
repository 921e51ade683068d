import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from scipy.stats import norm
from torch import Tensor

from object_discovery.layers.mixture import (
    MIN_SIGMA,
    MixtureLoss,
    estimate_sigma,
    mixture_log_likelihood,
    necessary_slots,
    posterior_masks,
)


def make_mixture(sigma: float = 0.1, size: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Return masks, slot images and images that are sampled from the mixture."""
    generator = torch.Generator().manual_seed(0)
    masks = (2 * torch.randn(2, 3, size, size, generator=generator)).softmax(1)
    slot_images = torch.rand(2, 3, 3, size, size, generator=generator)
    component = torch.multinomial(masks.permute(0, 2, 3, 1).reshape(-1, 3), 1, generator=generator)
    component = component.view(2, size, size)[:, None, None].expand(-1, 1, 3, -1, -1)
    means = slot_images.gather(1, component)[:, 0]
    return masks, slot_images, means + sigma * torch.randn(means.shape, generator=generator)


def expected_log_joint(masks: Tensor, slot_images: Tensor, images: Tensor, sigma: float) -> npt.NDArray[np.float64]:
    """Return log m_k + log N(x; x_k, sigma^2 I), `(B, K, H, W)`, by SciPy."""
    density = norm.logpdf(images.double()[:, None].numpy(), slot_images.double().numpy(), sigma)
    return np.asarray(np.log(masks.double().numpy()) + density.sum(2))


def test_log_likelihood_is_that_of_a_mixture_of_gaussians() -> None:
    masks, slot_images, images = make_mixture()
    expected = logsumexp(expected_log_joint(masks, slot_images, images, 0.2), axis=1)
    actual = mixture_log_likelihood(masks, slot_images, images, torch.tensor(0.2))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_posterior_is_by_bayes_rule() -> None:
    masks, slot_images, images = make_mixture()
    joint = expected_log_joint(masks, slot_images, images, 0.2)
    expected = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    actual = posterior_masks(masks, slot_images, images, torch.tensor(0.2))
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-5)
    by_image = posterior_masks(masks, slot_images, images, torch.tensor([0.2, 0.4]))
    torch.testing.assert_close(by_image[0], actual[0])
    assert not torch.allclose(by_image[1], actual[1], atol=0.01)


def test_posterior_of_slots_of_one_colour_is_the_mask() -> None:
    masks, slot_images, images = make_mixture()
    actual = posterior_masks(masks, slot_images[:, :1].expand_as(slot_images), images)
    torch.testing.assert_close(actual, masks)


def test_inactive_slots_have_no_posterior() -> None:
    masks, slot_images, images = make_mixture()
    masks = masks * torch.tensor([1.0, 1.0, 0.0])[:, None, None]
    masks = masks / masks.sum(1, keepdim=True)
    slot_images[:, 2] = images  # the inactive slot has the exact colours
    actual = posterior_masks(masks, slot_images, images, torch.tensor(0.01))
    assert not actual[:, 2].any()


def test_sigma_maximises_the_likelihood() -> None:
    masks, slot_images, images = make_mixture(size=32)
    actual = estimate_sigma(masks, slot_images, images, iterations=200)
    for index in range(2):
        part = slice(index, index + 1)

        def negative_log_likelihood(log_sigma: float, part: slice = part) -> float:
            sigma = torch.tensor(log_sigma).exp()
            return -float(mixture_log_likelihood(masks[part], slot_images[part], images[part], sigma).mean())

        best = minimize_scalar(negative_log_likelihood, bounds=(-4, 0), method="bounded").x
        assert abs(float(actual[index].log()) - best) < 0.01
        assert abs(float(actual[index]) - 0.1) < 0.01  # of which the images were sampled
    few = estimate_sigma(masks, slot_images, images)
    assert (few.log() - actual.log()).abs().max() < 0.1


def test_sigma_of_an_exact_reconstruction_is_bounded() -> None:
    masks, slot_images, _ = make_mixture()
    assert estimate_sigma(masks, slot_images[:, :1].expand_as(slot_images), slot_images[:, 0]).min() == torch.tensor(
        MIN_SIGMA
    )


def test_gradients_are_finite_where_masks_are_zero() -> None:
    masks, slot_images, images = make_mixture()
    logits = torch.zeros(2, 3, 12, 12, requires_grad=True)
    masks = (logits + torch.tensor([0.0, 0.0, -200.0])[:, None, None]).softmax(1)
    mixture_log_likelihood(masks, slot_images, images, torch.tensor(0.1)).mean().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_loss_of_one_slot_has_the_gradient_of_the_squared_error() -> None:
    _, slot_images, images = make_mixture()
    slot_images = slot_images[:, :1].clone().requires_grad_()
    masks = torch.ones(2, 1, 12, 12)
    actual = torch.autograd.grad(MixtureLoss(0.2)(masks, slot_images, images), slot_images)[0]
    expected = torch.autograd.grad((slot_images[:, 0] - images).square().mean(), slot_images)[0]
    torch.testing.assert_close(actual, expected)


def test_loss_learns_the_standard_deviation_in_training_only() -> None:
    masks, slot_images, images = make_mixture(size=32)
    loss = MixtureLoss(initial_sigma=0.5).eval()
    loss(masks, slot_images, images)
    assert float(loss.sigma) == 0.5
    loss.train()
    for _ in range(2000):
        loss(masks, slot_images, images)
    torch.testing.assert_close(float(loss.sigma), 0.1, atol=0.01, rtol=0)  # of which the images were sampled
    assert loss.state_dict().keys() == {"variance"}


def eliminate_by_definition(masks: Tensor, slot_images: Tensor, images: Tensor, min_gain: float) -> list[list[bool]]:
    """Eliminate slots of each image one by one, each time with the likelihood of the mixture that is left."""
    sigma = 2 * estimate_sigma(masks, slot_images, images)
    result = []
    for b in range(len(masks)):

        def likelihood(slots: list[int], b: int = b) -> float:
            left = masks[b : b + 1, slots]
            left = left / left.sum(1, keepdim=True)
            return float(
                mixture_log_likelihood(left, slot_images[b : b + 1, slots], images[b : b + 1], sigma[b]).mean()
            )

        slots = list(range(masks.shape[1]))
        while len(slots) > 1:
            losses = {slot: likelihood(slots) - likelihood([k for k in slots if k != slot]) for slot in slots}
            slot = min(losses, key=losses.__getitem__)
            if losses[slot] >= min_gain:
                break
            slots.remove(slot)
        result.append([k in slots for k in range(masks.shape[1])])
    return result


def test_necessary_slots_are_those_of_backward_elimination_by_the_likelihood() -> None:
    masks, slot_images, images = make_mixture()
    masks = (masks.log() + torch.tensor([2.0, 0.0, -2.0]).view(3, 1, 1)).softmax(1)
    kept = set()
    for min_gain in (0.0, 0.1, 0.3, 0.5, 1.0, 2.0, 100.0):
        actual = necessary_slots(masks, slot_images, images, min_gain)
        assert actual.tolist() == eliminate_by_definition(masks, slot_images, images, min_gain)
        kept.update(actual.sum(1).tolist())
    assert kept == {1, 2, 3}


def test_of_two_slots_of_one_object_one_is_necessary() -> None:
    object_mask = torch.zeros(8, 8)
    object_mask[2:6, 2:6] = 1
    masks = torch.stack([1 - object_mask, 0.6 * object_mask, 0.4 * object_mask])[None]
    slot_images = torch.tensor([0.0, 1.0, 0.97]).view(1, 3, 1, 1, 1).expand(1, 3, 3, 8, 8)
    images = object_mask.expand(1, 3, 8, 8)
    assert necessary_slots(masks, slot_images, images, 0.01).sum() == 2
    assert necessary_slots(masks, slot_images, images, 0.01)[0, 0]


def test_inactive_slots_are_not_necessary_and_one_slot_always_is() -> None:
    masks = torch.zeros(2, 3, 4, 4)
    masks[:, 1] = 1
    images = torch.rand(2, 3, 4, 4)
    assert necessary_slots(masks, torch.rand(2, 3, 3, 4, 4), images, 0.0).tolist() == [[False, True, False]] * 2
    assert necessary_slots(masks[:, 1:2], torch.rand(2, 1, 3, 4, 4), images, 1e9).all()
