"""Covariance, variance and cosine losses (Stange et al. 2023) against robert1003/slot-attention-disentanglement."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from object_discovery.layers.regularizers import SlotRegularizer
from object_discovery.metrics import slot_covariance
from tests.fidelity.official import Official, assert_same

OFFICIAL = Official("covloss")
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "div_sq": {"divide_by_square": True},
    "slot_cov": {"covariance_of": "slots"},
    "slot_cov_div_sq": {"covariance_of": "slots", "divide_by_square": True},
    "info_nce": {},
}
OURS = {"cov_loss": "covariance", "std_loss": "variance", "info_nce_loss": "cosine"}
LOSSES = [(variant, loss) for variant in list(VARIANTS)[:4] for loss in ("cov_loss", "std_loss")]
every_loss = pytest.mark.parametrize(("variant", "loss"), [*LOSSES, ("info_nce", "info_nce_loss")])


@every_loss
def test_loss_and_its_gradient_at_the_slots(variant: str, loss: str) -> None:
    slots = OFFICIAL["in/slots"].requires_grad_()
    term: Any = OURS[loss]
    value = SlotRegularizer(5, 16, [term], **VARIANTS[variant])(slots)[term]
    deviation = OFFICIAL.deviation(f"{variant}/{loss}")
    assert_same(value, OFFICIAL[f"out/{variant}/{loss}"], deviation)
    (gradient,) = torch.autograd.grad(value, slots)
    assert_same(gradient, OFFICIAL[f"grad/{variant}/{loss}"], deviation)


def test_mean_covariance_of_two_features() -> None:
    covariance = OFFICIAL["out/default/cov_mx"]
    expected = covariance[~torch.eye(16, dtype=torch.bool)].abs().mean()
    assert_same(slot_covariance(OFFICIAL["in/slots"]), expected, OFFICIAL.deviation("default/cov_mx"))
