import math

import pytest
import torch

from object_discovery.models.gnm.local_latents import ObjectHead, place


def test_boxes_by_hand() -> None:
    where = torch.tensor([0.3, math.log(4.0), 0.5, -2.0]).expand(1, 16, 4)
    boxes = place(where, grid=4)
    scale = 1 / (1 + math.exp(-0.3))
    for row in range(4):
        for column in range(4):
            x = (2 / 4) * (column + 0.5 + math.tanh(0.5)) - 1
            y = (2 / 4) * (row + 0.5 + math.tanh(-2.0)) - 1
            expected = torch.tensor([scale / 2, scale * 2, x, y])
            torch.testing.assert_close(boxes[0, 4 * row + column], expected)


def test_objects_begin_small_and_in_their_cells() -> None:
    torch.manual_seed(0)
    found = ObjectHead(8, what_size=3)(torch.randn(2, 4, 8))
    assert (found.where.mean[..., 0] + 1).abs().max() < 0.2
    assert found.where.mean[..., 1:].abs().max() < 0.2


def test_log_odds_are_bounded() -> None:
    head = ObjectHead(8, what_size=3)
    head.presence.bias.data.fill_(1e6)
    assert head(torch.randn(1, 4, 8)).presence.tolist() == [pytest.approx([8.8] * 4)]


def test_modes_and_samples() -> None:
    torch.manual_seed(0)
    found = ObjectHead(8, what_size=3)(torch.randn(300, 4, 8))
    mode, drawn, relaxed = found.mode(), found.draw(), found.sample(tau=0.5)
    assert torch.equal(mode.presence, (found.presence > 0).float())
    assert torch.equal(mode.what, found.what.mean)
    assert set(drawn.presence.flatten().tolist()) == {0.0, 1.0}
    assert drawn.presence.mean().item() == pytest.approx(found.presence.sigmoid().mean().item(), abs=0.05)
    assert 0 <= relaxed.presence.min() < 0.5 < relaxed.presence.max() <= 1
    assert ((relaxed.presence > 0.01) & (relaxed.presence < 0.99)).any()
    assert relaxed.where.shape == (300, 4, 4)
