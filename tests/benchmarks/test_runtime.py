import math

import torch
from torch import nn

from object_discovery.benchmarks.runtime import Runtime, training_step


def test_precision_is_applied_by_autocast() -> None:
    layer, inputs = nn.Linear(2, 2), torch.zeros(1, 2)
    for precision, dtype in (("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)):
        runtime = Runtime(torch.device("cpu"), precision)
        with runtime.autocast():
            assert layer(inputs).dtype == dtype
    assert Runtime.create("auto").precision in ("bf16-mixed", "32-true")


def test_workload_runs_once_for_warm_up_and_returns_the_units() -> None:
    calls: list[None] = []
    work = Runtime.create().workload(lambda: calls.append(None), num_steps=3, units_per_step=4)
    assert len(calls) == 1
    assert work() == 12
    assert len(calls) == 4


def test_training_step_updates_every_parameter_and_clips_gradients() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    for fused, norm_type in ((True, 2.0), (False, math.inf)):
        step = training_step(
            layer, lambda scale: scale * layer(torch.ones(4, 3)).sum(), fused=fused, norm_type=norm_type
        )
        step(100.0)
        gradients = torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None])
        torch.testing.assert_close(torch.linalg.vector_norm(gradients, norm_type).item(), 1.0, rtol=1e-4, atol=0)
    for parameter, initial in zip(layer.parameters(), before, strict=True):
        assert (parameter != initial).all()
