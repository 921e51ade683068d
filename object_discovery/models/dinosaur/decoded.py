"""Output of the decoders of DINOSAUR."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Decoded(NamedTuple):
    """Reconstruction of a batch from its slots."""

    prediction: Tensor
    """Predicted target: features `(B, N, F)`, or images `(B, 3, S, S)`."""
    masks: Tensor | None
    """Masks `(B, K, N)` or `(B, K, S, S)`, float32, which sum to 1 over the slots; None if not computed."""
    slot_images: Tensor | None = None
    """RGB reconstruction of each slot, `(B, K, 3, S, S)`, by decoders of pixels."""
