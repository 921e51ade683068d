import copy
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from object_discovery.layers import SlotAttention
from object_discovery.layers.slot_attention import Gradient, SlotInit
from tests.layers.slot_attention_reference import MODES, make_core, make_inputs, reference_forward


def gradients(core: SlotAttention, inputs: Tensor, loss: Tensor) -> dict[str, Tensor | None]:
    named = {"inputs": inputs, **dict(core.named_parameters())}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True), strict=True))


def assert_same_gradients(
    actual: dict[str, Tensor | None], expected: dict[str, Tensor | None], skip: Iterable[str] = (), rtol: float = 1e-4
) -> None:
    largest = max(float(gradient.abs().max()) for gradient in expected.values() if gradient is not None)
    for name in actual.keys() - set(skip):
        ours, theirs = actual[name], expected[name]
        assert ours is not None, f"No gradient for {name}"
        assert theirs is not None, f"No expected gradient for {name}"
        # with one head the softmax over slots cancels the bias of norm_slots, whose gradient is then rounding error
        scale = max(float(theirs.abs().max()), 1e-4 * largest)
        difference = float((ours - theirs).abs().max())
        assert difference <= rtol * scale, f"Gradient of {name} is off by {difference}, of {scale}"


def test_full_gradient_matches_reference_implementation() -> None:
    core = make_core(slot_init="learned", num_heads=2)
    inputs, initial_slots = make_inputs(core)
    inputs.requires_grad_()
    initial_slots = core.queries.expand(2, -1, -1)
    weights = torch.randn(2, 3, 8).double()
    actual = gradients(core, inputs, (core(inputs)[0] * weights).sum())
    expected = gradients(core, inputs, (reference_forward(core, inputs, initial_slots, 3)[0] * weights).sum())
    assert_same_gradients(actual, expected)


class FixedPoint:
    """Fixed point of a small core whose iteration is a contraction, and the Jacobian of the iteration there."""

    def __init__(self, **settings: Any) -> None:
        self.core = make_core(2, 4, 3, gradient="implicit", **settings)
        with torch.no_grad():
            for name, parameter in self.core.named_parameters():
                parameter.mul_(0.5 if "norm" not in name and "queries" not in name else 1.0)
        self.core.queries = torch.nn.Parameter(torch.randn(2, 4).double())
        torch.manual_seed(2)
        self.inputs = torch.randn(1, 5, 3).double().requires_grad_()
        with torch.no_grad():
            keys, values = self.core.project(self.inputs)
            self.slots = self.core.iterate(torch.randn(1, 2, 4).double(), keys, values, 400)[0]
        self.loss_gradient = torch.randn(8).double()
        jacobian = torch.autograd.functional.jacobian(lambda z: self.step(z)[0], self.slots)  # type: ignore[no-untyped-call]
        self.jacobian: Tensor = jacobian.reshape(8, 8)

    def step(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        return self.core.step(slots, *self.core.project(self.inputs))

    def forward(self, terms: int, iterations: int = 50) -> dict[str, Tensor | None]:
        self.core.neumann_terms = terms
        slots = self.core(self.inputs, self.slots, num_iterations=iterations)[0]
        return gradients(self.core, self.inputs, slots.flatten() @ self.loss_gradient)

    def vector_jacobian_product(self, vector: Tensor) -> dict[str, Tensor | None]:
        """Compute the vector-Jacobian product of one iteration for its parameters and inputs."""
        return gradients(self.core, self.inputs, self.step(self.slots)[0].flatten() @ vector)

    def truncated_series(self, terms: int) -> dict[str, Tensor | None]:
        powers = [torch.linalg.matrix_power(self.jacobian.T, i) @ self.loss_gradient for i in range(terms)]
        return self.vector_jacobian_product(torch.stack(powers).sum(0))

    def exact_gradient(self) -> dict[str, Tensor | None]:
        return self.vector_jacobian_product(torch.linalg.solve((torch.eye(8) - self.jacobian).T, self.loss_gradient))


@pytest.fixture(scope="module")
def fixed_point() -> FixedPoint:
    return FixedPoint(slot_init="learned")


def distance(actual: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> float:
    pairs = [(actual[name], expected[name]) for name in expected if expected[name] is not None]
    return math.sqrt(sum(float((a - b).square().sum()) for a, b in pairs if a is not None and b is not None))


def test_fixed_point_is_converged_and_iteration_is_a_contraction(fixed_point: FixedPoint) -> None:
    assert torch.linalg.eigvals(fixed_point.jacobian).abs().max() < 0.95
    # the higher terms of the series are not negligible
    assert torch.linalg.matrix_norm(fixed_point.jacobian) > 0.3
    torch.testing.assert_close(fixed_point.step(fixed_point.slots)[0], fixed_point.slots, rtol=0, atol=1e-7)


@pytest.mark.parametrize("terms", [1, 2, 3, 6])
def test_implicit_gradient_is_truncated_neumann_series(fixed_point: FixedPoint, terms: int) -> None:
    assert_same_gradients(fixed_point.forward(terms), fixed_point.truncated_series(terms), skip=["queries"])


def test_first_order_gradient_is_that_of_one_iteration_at_the_fixed_point(fixed_point: FixedPoint) -> None:
    expected = fixed_point.vector_jacobian_product(fixed_point.loss_gradient)
    assert_same_gradients(fixed_point.forward(1), expected, skip=["queries"], rtol=1e-6)


def test_neumann_series_converges_to_exact_implicit_gradient(fixed_point: FixedPoint) -> None:
    exact = fixed_point.exact_gradient()
    errors = [distance(fixed_point.forward(terms), exact) for terms in (1, 2, 4, 8, 16, 80)]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 1e-3 * errors[0]
    assert_same_gradients(fixed_point.forward(200), exact, skip=["queries"])


@pytest.mark.parametrize("name", ["to_value.weight", "gru.weight_ih", "mlp.2.bias", "inputs"])
def test_exact_implicit_gradient_matches_finite_differences(fixed_point: FixedPoint, name: str) -> None:
    # central difference of the loss at the fixed point itself, computed again for each perturbed value
    tensor = dict(fixed_point.core.named_parameters()).get(name, fixed_point.inputs)
    direction = torch.randn_like(tensor)
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            tensor.add_(sign * 1e-3 * direction)
            keys, values = fixed_point.core.project(fixed_point.inputs)
            slots = fixed_point.core.iterate(fixed_point.slots, keys, values, 300)[0]
            losses.append(float(slots.flatten() @ fixed_point.loss_gradient))
            tensor.sub_(sign * 1e-3 * direction)
    gradient = fixed_point.exact_gradient()[name]
    assert gradient is not None
    assert float((gradient * direction).sum()) == pytest.approx((losses[0] - losses[1]) / 2e-3, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize(("mode", "terms", "total"), [("implicit", 1, 4), ("implicit", 3, 6), ("bilevel", 1, 3)])
def test_gradient_modes_have_equal_forward_values(mode: Gradient, terms: int, total: int) -> None:
    core = make_core(slot_init="learned", gradient=mode, neumann_terms=terms)
    inputs, _ = make_inputs(core)
    expected = reference_forward(core, inputs, core.queries.expand(2, -1, -1), total)
    for actual, value in zip(core(inputs, num_iterations=3), expected, strict=True):
        torch.testing.assert_close(actual.double(), value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("terms", [1, 3])
def test_bilevel_gradient_of_queries_is_straight_through(terms: int) -> None:
    core = make_core(slot_init="learned", gradient="bilevel", neumann_terms=terms)
    inputs, _ = make_inputs(core)
    inputs.requires_grad_()
    weights = torch.randn(2, 3, 8).double()
    actual = gradients(core, inputs, (core(inputs, num_iterations=4)[0] * weights).sum())
    with torch.no_grad():
        slots = reference_forward(core, inputs, core.queries.expand(2, -1, -1), 3)[0]
    slots.requires_grad_()
    loss = (reference_forward(core, inputs, slots, terms)[0] * weights).sum()
    expected = gradients(core, inputs, loss)
    loss = (reference_forward(core, inputs, slots, terms)[0] * weights).sum()
    expected["queries"] = torch.autograd.grad(loss, slots)[0].sum(0)  # summed over images
    assert_same_gradients(actual, expected)


def test_bilevel_with_one_iteration_equals_full_gradient() -> None:
    full, bilevel = make_core(slot_init="learned"), make_core(slot_init="learned", gradient="bilevel")
    inputs, _ = make_inputs(full)
    inputs.requires_grad_()
    expected = gradients(full, inputs, full(inputs, num_iterations=1)[0].square().sum())
    assert_same_gradients(gradients(bilevel, inputs, bilevel(inputs, num_iterations=1)[0].square().sum()), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("slot_init", ["gaussian", "learned"])
def test_initial_slot_parameters_get_gradients_unless_implicit(mode: Gradient, slot_init: SlotInit) -> None:
    core = make_core(gradient=mode, slot_init=slot_init)
    core(make_inputs(core)[0])[0].square().sum().backward()
    for name, parameter in core.named_parameters():
        has_gradient = mode != "implicit" or name not in ("mu", "log_sigma", "queries")
        assert (parameter.grad is not None) == has_gradient, name


def bytes_saved_for_backward(call: Callable[[], object]) -> int:
    """Count the bytes that autograd saves for the backward pass."""
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return total


@pytest.mark.parametrize("mode", ["implicit", "bilevel"])
def test_memory_of_implicit_and_bilevel_is_independent_of_iterations(mode: Gradient) -> None:
    core, full = make_core(gradient=mode), make_core(gradient="full")
    inputs, initial_slots = make_inputs(core)
    few, many = (bytes_saved_for_backward(lambda t=t: core(inputs, initial_slots, num_iterations=t)) for t in (3, 30))  # type: ignore[misc]
    assert 0 < few == many
    few, many = (bytes_saved_for_backward(lambda t=t: full(inputs, initial_slots, num_iterations=t)) for t in (3, 30))  # type: ignore[misc]
    assert many > 5 * few


def record_steps(core: SlotAttention, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Record the slots after each iteration."""
    recorded: list[Tensor] = []
    step = core.step

    def recording_step(*args: Tensor) -> tuple[Tensor, Tensor]:
        result = step(*args)
        recorded.append(result[0])
        return result

    monkeypatch.setattr(core, "step", recording_step)
    return recorded


def test_tolerance_stops_iterations_in_evaluation_mode_only(
    fixed_point: FixedPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = copy.deepcopy(fixed_point.core)
    core.gradient, core.neumann_terms = "full", 1
    recorded = record_steps(core, monkeypatch)
    initial_slots, inputs = fixed_point.slots + 0.5, fixed_point.inputs.detach()

    def count(tolerance: float) -> int:
        recorded.clear()
        core.tolerance = tolerance
        with torch.no_grad():
            core(inputs, initial_slots, num_iterations=100)
        return len(recorded)

    core.eval()
    stopped = count(1e-3)
    assert 2 < stopped < 100
    changes = [
        float((after - before).abs().max()) for before, after in zip([initial_slots, *recorded], recorded, strict=False)
    ]
    assert changes[-1] <= 1e-3
    assert min(changes[:-1]) > 1e-3
    assert stopped < count(1e-6)
    assert count(0.0) == 100
    core.train()
    assert count(1e-3) == 100
