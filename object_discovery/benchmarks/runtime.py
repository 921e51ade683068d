"""Device and precision that a benchmark runs in, and the training steps that it times."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, ParamSpec

import torch
from torch import Tensor, nn

from object_discovery.training.trainer import choose_precision

P = ParamSpec("P")


class Runtime(NamedTuple):
    """Device and precision of a benchmark."""

    device: torch.device
    """The GPU if there is one, else the CPU."""
    precision: str
    """`bf16-mixed` or `32-true`."""

    @classmethod
    def create(cls, precision: str = "32-true") -> Runtime:
        """Choose the device, and the precision if it is `auto`.

        Example:
            >>> Runtime.create("bf16-mixed").precision
            'bf16-mixed'
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(device, choose_precision(precision, "auto"))

    def autocast(self) -> torch.autocast:
        """Return a context manager that applies the precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def synchronize(self) -> None:
        """Wait for the GPU to finish."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def describe(self) -> str:
        """Describe precision, device and threads for the title of a report.

        Example:
            >>> Runtime.create("32-true").describe().startswith("32-true on ")
            True
        """
        return f"{self.precision} on {self.device.type}, {torch.get_num_threads()} threads"

    def workload(self, step: Callable[[], object], num_steps: int, units_per_step: int) -> Callable[[], int]:
        """Wrap a step into a workload for `time_alternating`; the step is run once for warm-up.

        Args:
            step: What to time.
            num_steps: Times that it is run in each repetition.
            units_per_step: Units of work of a step, such as images.

        Returns:
            A function that runs the steps, waits for the GPU and returns the units of work.
        """

        def work() -> int:
            for _ in range(num_steps):
                step()
            self.synchronize()
            return num_steps * units_per_step

        step()
        return work


def training_step(
    module: nn.Module, loss: Callable[P, Tensor], *, fused: bool = True, norm_type: float = 2.0
) -> Callable[P, None]:
    """Build a training step: loss, gradients, clipping of their norm, and Adam.

    Args:
        module: The module whose parameters are trained.
        loss: Computes the loss, a scalar, from the arguments of the step.
        fused: Use the fused implementation of Adam.
        norm_type: Norm that is clipped; `math.inf` for the largest gradient.
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-6, fused=fused)

    def step(*args: P.args, **kwargs: P.kwargs) -> None:
        optimizer.zero_grad()
        loss(*args, **kwargs).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), 1.0, norm_type)
        optimizer.step()

    return step
