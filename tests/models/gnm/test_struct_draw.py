import pytest
import torch
from torch import nn

from object_discovery.models.gnm.struct_draw import ConvLSTM, StructDRAW


def make_struct_draw() -> StructDRAW:
    torch.manual_seed(0)
    return StructDRAW(grid=2, channels=8, size=3, steps=3)


def test_conv_lstm_equals_lstm_cell_applied_to_each_cell() -> None:
    torch.manual_seed(0)
    conv_lstm, lstm_cell = ConvLSTM(5, 4, cells=6), nn.LSTMCell(5, 4)
    with torch.no_grad():
        weight = torch.cat([lstm_cell.weight_ih, lstm_cell.weight_hh], 1)  # input, forget, cell, output
        bias = lstm_cell.bias_ih + lstm_cell.bias_hh
        for name, value in (("weight", weight), ("bias", bias)):
            i, f, g, o = value.chunk(4)
            getattr(conv_lstm.gates, name).copy_(torch.cat([i, f, o, g]))
    inputs, hidden, memory = torch.randn(2, 6, 5), torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    state = conv_lstm(inputs, (hidden, memory))
    expected = lstm_cell(inputs.flatten(0, 1), (hidden.flatten(0, 1), memory.flatten(0, 1)))
    for value, expected_value in zip(state, expected, strict=True):
        torch.testing.assert_close(value.flatten(0, 1), expected_value)


def test_first_prior_is_unconditional_and_later_ones_depend_on_earlier_samples() -> None:
    latent = make_struct_draw()(torch.randn(4, 4, 8))
    means = latent.prior.mean
    torch.testing.assert_close(means[:, 0], means[:1, 0].expand(4, -1))
    assert (means[0, 1:] - means[1, 1:]).abs().min() > 1e-5
    assert (latent.posterior.mean[0] - latent.posterior.mean[1]).abs().min() > 1e-5


def test_given_steps_are_kept_and_resampled_steps_differ() -> None:
    struct_draw = make_struct_draw()
    first = struct_draw.sample(2)
    assert torch.equal(first.posterior.mean, first.prior.mean)
    copy = struct_draw.sample(2, first.samples)
    torch.testing.assert_close(copy.features, first.features)
    resampled = struct_draw.sample(2, first.samples, resample_steps=(1,))
    is_kept = (resampled.samples == first.samples).flatten(2).all(2)
    assert is_kept.tolist() == [[True, False, True]] * 2
    assert not torch.allclose(resampled.features, first.features)


def test_features_accumulate_over_steps() -> None:
    struct_draw = make_struct_draw()
    latent = struct_draw(torch.randn(2, 4, 8))
    state, features = struct_draw.decoder.initial_state(2), torch.zeros(2, 4, 8)
    for step in range(3):
        cells = struct_draw.interaction(latent.samples[:, step]).view(2, 4, 8)
        state = struct_draw.decoder(torch.cat([cells, features], -1), state)
        image = state[0].transpose(1, 2).view(2, 8, 2, 2)
        features = features + struct_draw.write(image).flatten(2).transpose(1, 2)
    torch.testing.assert_close(latent.features, features)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_initial_states_are_zero_and_receive_gradients(part: str) -> None:
    struct_draw = make_struct_draw()
    initial = getattr(struct_draw, part).initial
    assert not initial.any()
    struct_draw(torch.randn(2, 4, 8)).features.square().sum().backward()
    assert initial.grad.abs().sum() > 0
