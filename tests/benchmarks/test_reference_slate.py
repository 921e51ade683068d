import torch

from object_discovery import SLATE
from object_discovery.benchmarks.reference_slate import reference_generation, reference_losses
from object_discovery.models.slate.generation import generate_tokens
from tests.models.tiny import TINY, make_images


def make_slate() -> SLATE:
    """Build a deterministic model: without dropout, and with token probabilities of almost 0 or 1."""
    torch.manual_seed(0)
    model = SLATE(**{**TINY["slate"], "slot_init": "learned", "gradient": "full", "dropout": 0.0})
    with torch.no_grad():
        model.dvae.to_logits.weight *= 1e5
        for layer in (model.decoder.to_logits, model.decoder.from_slots):
            layer.weight *= 10
    return model


def test_reference_has_the_losses_and_gradients_of_the_library() -> None:
    model, images = make_slate(), make_images()
    losses = model.losses({"image": images})
    mse, cross_entropy = reference_losses(model, images, tau=1.0)
    torch.testing.assert_close(mse, losses["mse"])
    torch.testing.assert_close(cross_entropy, losses["cross_entropy"])
    # With one head the softmax over the slots cancels the bias of norm_slots: its gradient is rounding alone.
    excluded = ("dvae.", "slot_attention.norm_slots.bias")
    parameters = {name: value for name, value in model.named_parameters() if not name.startswith(excluded)}
    gradients = torch.autograd.grad(cross_entropy, list(parameters.values()))
    expected = torch.autograd.grad(losses["cross_entropy"], list(parameters.values()))
    for name, gradient, other in zip(parameters, gradients, expected, strict=True):
        atol = 1e-5 * float(other.abs().max()) + 1e-6
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=atol, msg=name)
    assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_reference_generates_the_tokens_of_the_library() -> None:
    model, slots = make_slate().eval(), torch.randn(2, 3, 16)
    tokens = reference_generation(model, slots)
    assert tokens.min() < tokens.max()
    assert torch.equal(tokens, generate_tokens(model.decoder, model.embedding, slots))


def test_tokens_are_generated_at_the_given_lengths_only() -> None:
    model, slots = make_slate().eval(), torch.randn(2, 3, 16)
    tokens = reference_generation(model, slots, [0, 1, 5])
    assert torch.equal(tokens[:, :2], reference_generation(model, slots)[:, :2])
    assert not tokens[:, 2:5].any()
    assert not tokens[:, 6:].any()
