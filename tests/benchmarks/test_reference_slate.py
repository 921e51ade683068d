import torch

from object_discovery import SLATE
from object_discovery.benchmarks.reference_slate import published_generation, published_losses
from object_discovery.models.slate.generation import generate_tokens
from tests.models.tiny import TINY, make_images


def make() -> SLATE:
    """Build a model in which nothing is left to chance: its tokens are as good as certain."""
    torch.manual_seed(0)
    model = SLATE(**{**TINY["slate"], "slot_init": "learned", "gradient": "full", "dropout": 0.0})
    with torch.no_grad():
        model.dvae.to_logits.weight *= 1e5
        for layer in (model.decoder.to_logits, model.decoder.from_slots):
            layer.weight *= 10
    return model


def test_both_ways_have_the_same_losses_and_gradients() -> None:
    model, images = make(), make_images()
    ours = model.losses({"image": images})
    mse, cross_entropy = published_losses(model, images, tau=1.0)
    torch.testing.assert_close(mse, ours["mse"])
    torch.testing.assert_close(cross_entropy, ours["cross_entropy"])
    # With one head the softmax over the slots cancels the bias of norm_slots: its gradient is rounding alone.
    left_out = ("dvae.", "slot_attention.norm_slots.bias")
    parts = [(name, value) for name, value in model.named_parameters() if not name.startswith(left_out)]
    found = torch.autograd.grad(cross_entropy, [value for _, value in parts])
    expected = torch.autograd.grad(ours["cross_entropy"], [value for _, value in parts])
    for (name, _), one, other in zip(parts, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()) + 1e-6, msg=name)
    assert any(value.abs().max() > 0 for value in found)


def test_both_ways_generate_the_same_tokens() -> None:
    model, slots = make().eval(), torch.randn(2, 3, 16)
    tokens = published_generation(model, slots)
    assert tokens.min() < tokens.max()
    assert torch.equal(tokens, generate_tokens(model.decoder, model.embedding, slots))


def test_a_part_of_the_tokens_may_be_generated() -> None:
    model, slots = make().eval(), torch.randn(2, 3, 16)
    some = published_generation(model, slots, [0, 1, 5])
    assert torch.equal(some[:, :2], published_generation(model, slots)[:, :2])
    assert not some[:, 2:5].any()
    assert not some[:, 6:].any()
