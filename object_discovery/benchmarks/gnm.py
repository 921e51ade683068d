"""How fast GNM trains: our step beside one with the habits of public implementations, with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from object_discovery.benchmarks.reference_gnm import published_loss
from object_discovery.benchmarks.report import BenchmarkReport, Ratio
from object_discovery.benchmarks.timing import check_precision, time_in_turn
from object_discovery.errors import check_argument, check_at_least
from object_discovery.models.gnm.model import GNM
from object_discovery.training.trainer import choose_precision

_BAR = 2.0


@dataclass
class GNMBenchmarkParams:
    """What to measure, and how long."""

    resolution: int = 128
    """Height and width of the images in pixels."""
    batch_size: int = 8
    """Images in a training step."""
    num_steps: int = 2
    """Training steps in a repetition."""
    repeats: int = 5
    """Repetitions of everything; they alternate."""
    precision: str = "auto"
    """Of our training step: `bf16-mixed`, `32-true`, or auto for the former where the hardware multiplies bfloat16."""
    out: str | None = None
    """JSON file for the result. None: printed only."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "batch_size", "num_steps", "repeats")
        size = self.resolution
        check_argument(size >= 8 and not size & (size - 1), "resolution", "a power of two from 8 on", size)
        check_precision(self.precision)


def run(params: GNMBenchmarkParams) -> BenchmarkReport:
    """Measure training steps: losses, gradients, clipping and the optimiser."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = choose_precision(params.precision, "auto")
    size = params.resolution  # the curriculum's first steps leave a little out, so there are none
    model = GNM.from_config("gnm_clevr6", resolution=size, glimpse_size=size // 2, covered_steps=0).to(device)
    images = torch.rand(params.batch_size, 3, size, size, device=device).to(memory_format=torch.channels_last)
    title = f"GNM, {size} x {size} pixels: {chosen} on {device.type}, {torch.get_num_threads()} threads"
    report = BenchmarkReport(title, {**asdict(params), "precision": chosen})

    def ours() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=chosen == "bf16-mixed"):
            return model.losses({"image": images})["loss"]

    ways: dict[str, tuple[Callable[[], Tensor], bool]] = {
        "published": (lambda: published_loss(model, images)[0], False),
        "published, the loss alone": (lambda: published_loss(model, images, extras=False)[0], False),
        "ours": (ours, True),
    }
    timings = time_in_turn({name: _work(model, params, *way) for name, way in ways.items()}, params.repeats)
    report.add_times(timings, prefix="training, ")
    report.ratios.append(Ratio("training, published / ours", timings["published"].over(timings["ours"]), _BAR))
    alone = timings["published, the loss alone"].over(timings["ours"])
    report.ratios.append(Ratio("training, published, the loss alone / ours", alone))
    return report


def _work(model: GNM, params: GNMBenchmarkParams, loss: Callable[[], Tensor], fused: bool) -> Callable[[], int]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6, fused=fused)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def work() -> int:
        for _ in range(params.num_steps):
            step()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return params.num_steps * params.batch_size

    step()  # the first allocates, and chooses kernels
    return work
