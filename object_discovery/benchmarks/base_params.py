"""Settings that several benchmarks share."""

from __future__ import annotations

from dataclasses import dataclass

from object_discovery.errors import check_argument, check_at_least


@dataclass(kw_only=True)
class BenchmarkParams:
    """Settings of every benchmark."""

    repeats: int = 5
    """Repetitions of each measurement; the measurements alternate."""
    out: str | None = None
    """JSON file for the result. None: the result is only printed."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_at_least(self, 1, "repeats")


@dataclass(kw_only=True)
class TrainingBenchmarkParams(BenchmarkParams):
    """Settings of benchmarks of training steps."""

    batch_size: int = 8
    """Images in a training step."""
    num_steps: int = 2
    """Training steps in each repetition."""
    precision: str = "auto"
    """Precision of the library's training step: `bf16-mixed`, `32-true`, or `auto` for the former where the hardware
    supports bfloat16."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        check_at_least(self, 1, "batch_size", "num_steps")
        choices = ("auto", "bf16-mixed", "32-true")
        check_argument(self.precision in choices, "precision", "auto, bf16-mixed or 32-true", self.precision)
