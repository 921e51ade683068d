"""Read the numbers of official implementations, and compare ours with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ARRAYS = Path(__file__).parent / "arrays"


class Official:
    """The arrays of one official implementation.

    Args:
        name: Of the file, without its ending.
    """

    def __init__(self, name: str) -> None:
        with np.load(ARRAYS / f"{name}.npz", allow_pickle=False) as file:
            self.arrays = {key: file[key] for key in file.files}

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key].copy())

    def text(self, key: str) -> list[str]:
        """Return a list of names."""
        return [str(name) for name in self.arrays[key]]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the arrays whose keys start with a prefix, by the rest of the key."""
        return {key.removeprefix(prefix): self[key] for key in self.arrays if key.startswith(prefix)}

    def deviation(self, key: str) -> float:
        """Return how far the official output in float32 is from the same in float64."""
        return float(json.loads(str(self.arrays["meta/float64_max_abs_dev"]))[key])


def tolerance(expected: Tensor, deviation: float = 0.0) -> float:
    """Allow ten times the deviation of the official output and not below 1e-5, but at most 1/1000 of the largest value.

    Args:
        expected: The official output.
        deviation: How far it is from the same in float64; 0 where this is not stored.
    """
    return min(max(10 * deviation, 1e-5), 1e-3 * float(expected.abs().max()))


def assert_same(found: Tensor, expected: Tensor, deviation: float = 0.0) -> None:
    """Compare an output of ours with the official one, see `tolerance`."""
    atol = tolerance(expected, deviation)
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=atol, check_dtype=False)
