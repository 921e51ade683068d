import math

import pytest
import torch

from object_discovery.models.gnm.local_latents import ObjectHead, where_to_boxes


def test_boxes_equal_the_published_formula() -> None:
    where = torch.tensor([0.3, math.log(4.0), 0.5, -2.0]).expand(1, 16, 4)
    boxes = where_to_boxes(where, grid=4)
    scale = 1 / (1 + math.exp(-0.3))
    for row in range(4):
        for column in range(4):
            x = (2 / 4) * (column + 0.5 + math.tanh(0.5)) - 1
            y = (2 / 4) * (row + 0.5 + math.tanh(-2.0)) - 1
            expected = torch.tensor([scale / 2, scale * 2, x, y])
            torch.testing.assert_close(boxes[0, 4 * row + column], expected)


def test_initial_boxes_are_small_and_centred_in_their_cells() -> None:
    torch.manual_seed(0)
    where = ObjectHead(8, what_size=3)(torch.randn(2, 4, 8)).where
    assert (where.mean[..., 0] + 1).abs().max() < 0.2
    assert where.mean[..., 1:].abs().max() < 0.2


def test_presence_logits_are_bounded() -> None:
    head = ObjectHead(8, what_size=3)
    head.presence.bias.data.fill_(1e6)
    assert head(torch.randn(1, 4, 8)).presence.tolist() == [pytest.approx([8.8] * 4)]


def test_mode_sample_and_rsample() -> None:
    torch.manual_seed(0)
    distribution = ObjectHead(8, what_size=3)(torch.randn(300, 4, 8))
    mode, sample, relaxed = distribution.mode(), distribution.sample(), distribution.rsample(tau=0.5)
    assert torch.equal(mode.presence, (distribution.presence > 0).float())
    assert torch.equal(mode.what, distribution.what.mean)
    assert set(sample.presence.flatten().tolist()) == {0.0, 1.0}
    assert sample.presence.mean().item() == pytest.approx(distribution.presence.sigmoid().mean().item(), abs=0.05)
    assert 0 <= relaxed.presence.min() < 0.5 < relaxed.presence.max() <= 1
    assert ((relaxed.presence > 0.01) & (relaxed.presence < 0.99)).any()
    assert relaxed.where.shape == (300, 4, 4)
