import pytest
import torch
from torch import nn

from object_discovery.models.gnm.prior import ConvLSTM, StructDRAW


def make() -> StructDRAW:
    torch.manual_seed(0)
    return StructDRAW(grid=2, channels=8, size=3, steps=3)


def test_the_lstm_is_torchs_on_each_cell() -> None:
    torch.manual_seed(0)
    ours, theirs = ConvLSTM(5, 4, cells=6), nn.LSTMCell(5, 4)
    with torch.no_grad():
        weight = torch.cat([theirs.weight_ih, theirs.weight_hh], 1)  # input, forget, cell, output
        bias = theirs.bias_ih + theirs.bias_hh
        for name, value in (("weight", weight), ("bias", bias)):
            i, f, g, o = value.chunk(4)
            getattr(ours.gates, name).copy_(torch.cat([i, f, o, g]))
    inputs, hidden, memory = torch.randn(2, 6, 5), torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    found = ours(inputs, (hidden, memory))
    expected = theirs(inputs.flatten(0, 1), (hidden.flatten(0, 1), memory.flatten(0, 1)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.flatten(0, 1), other)


def test_the_first_prior_is_the_same_for_all_and_the_later_ones_depend_on_what_was_drawn() -> None:
    latent = make()(torch.randn(4, 4, 8))
    means = latent.prior.mean
    torch.testing.assert_close(means[:, 0], means[:1, 0].expand(4, -1))
    assert (means[0, 1:] - means[1, 1:]).abs().min() > 1e-5
    assert (latent.posterior.mean[0] - latent.posterior.mean[1]).abs().min() > 1e-5


def test_samples_of_the_prior_are_kept_and_redrawn_step_by_step() -> None:
    draw = make()
    first = draw.sample(2)
    assert torch.equal(first.posterior.mean, first.prior.mean)
    again = draw.sample(2, first.samples)
    torch.testing.assert_close(again.features, first.features)
    other = draw.sample(2, first.samples, redraw=(1,))
    same = (other.samples == first.samples).flatten(2).all(2)
    assert same.tolist() == [[True, False, True]] * 2
    assert not torch.allclose(other.features, first.features)


def test_features_are_written_step_by_step() -> None:
    draw = make()
    latent = draw(torch.randn(2, 4, 8))
    hidden, features = draw.decoder.start(2), torch.zeros(2, 4, 8)
    for step in range(3):
        cells = draw.interaction(latent.samples[:, step]).view(2, 4, 8)
        hidden = draw.decoder(torch.cat([cells, features], -1), hidden)
        image = hidden[0].transpose(1, 2).view(2, 8, 2, 2)
        features = features + draw.write(image).flatten(2).transpose(1, 2)
    torch.testing.assert_close(latent.features, features)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_states_start_at_zero_and_learn(part: str) -> None:
    draw = make()
    initial = getattr(draw, part).initial
    assert not initial.any()
    draw(torch.randn(2, 4, 8)).features.square().sum().backward()
    assert initial.grad.abs().sum() > 0
