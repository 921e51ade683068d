import copy
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from object_discovery.layers import SlotAttention
from object_discovery.layers.slot_attention import Aggregation, Gradient, Initialization

MODES: tuple[Gradient, ...] = ("full", "implicit", "bilevel")


def make(num_slots: int = 3, slot_size: int = 8, input_size: int = 5, **settings: Any) -> SlotAttention:
    """Build a small core in float64 whose every parameter is off its initial value."""
    torch.manual_seed(0)
    core = SlotAttention(num_slots, slot_size, input_size, mlp_size=11, **settings).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return core


def problem(core: SlotAttention, batch: int = 2, inputs: int = 7, slots: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    size = core.to_key.in_features
    return torch.randn(batch, inputs, size).double(), torch.randn(batch, slots, core.slot_size).double()


# The paper's loop, written out with the weights of the module: one image at a time, plain products only.


def layer_norm(x: Tensor, weights: Mapping[str, Tensor], name: str, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / ((centred**2).mean(-1, keepdim=True) + eps) ** 0.5
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gru(x: Tensor, h: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    from_x = (x @ weights["gru.weight_ih"].T + weights["gru.bias_ih"]).chunk(3, dim=1)
    from_h = (h @ weights["gru.weight_hh"].T + weights["gru.bias_hh"]).chunk(3, dim=1)
    reset = 1 / (1 + torch.exp(-(from_x[0] + from_h[0])))
    update = 1 / (1 + torch.exp(-(from_x[1] + from_h[1])))
    new = torch.tanh(from_x[2] + reset * from_h[2])
    return (1 - update) * new + update * h


def attend(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Return the attention, `(heads, N, K)`: exponentials over their sum over heads and slots."""
    size = queries.shape[1] // heads
    parts = [slice(h * size, (h + 1) * size) for h in range(heads)]
    scores = torch.stack([torch.exp(keys[:, p] @ queries[:, p].T / math.sqrt(size)) for p in parts])
    return scores / scores.sum((0, 2), keepdim=True)


def written_out_step(
    x: Tensor, slots: Tensor, weights: Mapping[str, Tensor], heads: int, aggregation: str
) -> tuple[Tensor, Tensor]:
    """Do one iteration for one image: inputs `(N, D_in)` and slots `(K, D)`."""
    x = layer_norm(x, weights, "norm_inputs")
    keys, values = x @ weights["to_key.weight"].T, x @ weights["to_value.weight"].T
    queries = layer_norm(slots, weights, "norm_slots") @ weights["to_query.weight"].T
    attention = attend(queries, keys, heads)
    if aggregation == "mean":
        shares = attention + 1e-8
        shares = shares / shares.sum(1, keepdim=True)
    else:
        shares = attention / len(x)
    size = slots.shape[1] // heads
    updates = torch.cat([shares[h].T @ values[:, h * size : (h + 1) * size] for h in range(heads)], dim=1)
    slots = gru(updates, slots, weights)
    hidden = layer_norm(slots, weights, "norm_mlp") @ weights["mlp.0.weight"].T + weights["mlp.0.bias"]
    return slots + hidden.clamp(min=0) @ weights["mlp.2.weight"].T + weights["mlp.2.bias"], attention.sum(0).T


def written_out(
    core: SlotAttention, inputs: Tensor, slots: Tensor, iterations: int, aggregation: str = "mean"
) -> tuple[Tensor, Tensor]:
    weights = dict(core.named_parameters())
    found: list[tuple[Tensor, Tensor]] = []
    for x, image_slots in zip(inputs, slots, strict=True):
        for _ in range(iterations):
            image_slots, attention = written_out_step(x, image_slots, weights, core.num_heads, aggregation)
        found.append((image_slots, attention))
    return torch.stack([slots for slots, _ in found]), torch.stack([attention for _, attention in found])


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("aggregation", ["mean", "sum"])
def test_forward_is_the_loop_of_the_paper(iterations: int, heads: int, aggregation: Aggregation) -> None:
    core = make(num_heads=heads, aggregation=aggregation)
    inputs, start = problem(core)
    slots, attention = core(inputs, start, num_iterations=iterations)
    expected_slots, expected_attention = written_out(core, inputs, start, iterations, aggregation)
    torch.testing.assert_close(slots, expected_slots, rtol=1e-6, atol=1e-6)  # the softmax is in float32
    torch.testing.assert_close(attention.double(), expected_attention, rtol=1e-6, atol=1e-6)


def test_layer_norms_have_the_epsilon_asked_for() -> None:
    core = SlotAttention(norm_eps=1e-3)
    assert [norm.eps for norm in (core.norm_inputs, core.norm_slots, core.norm_mlp)] == [1e-3] * 3


def test_epsilon_is_added_to_each_entry_before_the_sum() -> None:
    core = make(epsilon=0.5)
    attention, values = torch.rand(1, 1, 2, 6), torch.randn(1, 1, 6, 8).double()
    shares = (attention[0, 0] + 0.5) / (attention[0, 0] + 0.5).sum(1, keepdim=True)
    torch.testing.assert_close(core.aggregate(attention, values)[0, 0], shares.double() @ values[0, 0])
    # a slot that wins nothing gets the plain mean of its inputs
    nothing = SlotAttention(2, 8).aggregate(torch.zeros(1, 1, 2, 6), values.float())
    torch.testing.assert_close(nothing[0, 0], values[0, 0].float().mean(0).expand(2, 8))


def test_batch_aggregation_normalises_weighted_sums_over_images_and_slots() -> None:
    core = make(aggregation="batch", num_heads=2)
    attention, values = torch.rand(3, 2, 4, 6), torch.randn(3, 2, 6, 4).double()
    sums = torch.stack(
        [torch.stack([a[h].double() @ v[h] for h in range(2)]) for a, v in zip(attention, values, strict=True)]
    )
    rows = torch.cat([sums[:, 0], sums[:, 1]], dim=-1)  # (B, K, D): heads side by side
    norm = core.norm_updates
    assert norm is not None
    mean, variance = rows.mean((0, 1)), rows.var((0, 1), unbiased=False)
    scaled = (rows - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias
    found = core.aggregate(attention, values)
    torch.testing.assert_close(torch.cat([found[:, 0], found[:, 1]], dim=-1).double(), scaled, rtol=1e-4, atol=1e-5)
    core.eval()
    norm.running_mean, norm.running_var = torch.full((8,), 2.0).double(), torch.full((8,), 4.0).double()
    scaled = (rows - 2) / (4 + norm.eps) ** 0.5 * norm.weight + norm.bias
    found = core.aggregate(attention, values)
    torch.testing.assert_close(torch.cat([found[:, 0], found[:, 1]], dim=-1).double(), scaled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["mean", "sum", "batch"])
@pytest.mark.parametrize("heads", [1, 2])
def test_slots_are_equivariant_and_inputs_are_a_set(aggregation: Aggregation, heads: int) -> None:
    core = make(aggregation=aggregation, num_heads=heads).float()
    inputs, start = (tensor.float() for tensor in problem(core, slots=4))
    slots, attention = core(inputs, start)
    order = torch.tensor([2, 0, 3, 1])
    permuted_slots, permuted_attention = core(inputs, start[:, order])
    torch.testing.assert_close(permuted_slots, slots[:, order])
    torch.testing.assert_close(permuted_attention, attention[:, order])
    assert not torch.allclose(slots, slots[:, order])
    shuffle = torch.randperm(inputs.shape[1])
    shuffled_slots, shuffled_attention = core(inputs[:, shuffle], start)
    torch.testing.assert_close(shuffled_slots, slots)
    torch.testing.assert_close(shuffled_attention, attention[:, :, shuffle])


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("mode", MODES)
def test_attention_sums_to_one_over_the_slots(heads: int, mode: Gradient) -> None:
    core = make(num_heads=heads, gradient=mode)
    inputs, start = problem(core)
    attention = core(20 * inputs, start)[1]
    torch.testing.assert_close(attention.sum(1), torch.ones(2, 7))
    assert attention.dtype == torch.float32
    assert attention.min() >= 0


def test_number_of_slots_and_iterations_may_change_at_every_call() -> None:
    core = make()
    inputs, start = problem(core)
    for slots in (1, 2, 9):
        found, attention = core(inputs, num_slots=slots)
        assert found.shape == (2, slots, 8)
        assert attention.shape == (2, slots, 7)
    once = core(inputs, start, num_iterations=1)[0]
    torch.testing.assert_close(core(inputs, once, num_iterations=2)[0], core(inputs, start, num_iterations=3)[0])
    torch.testing.assert_close(core(inputs, start)[0], core(inputs, start, num_iterations=3)[0])
    assert not torch.allclose(core(inputs, start)[0], once)


def test_given_slots_take_the_place_of_the_initial_ones() -> None:
    core = make(slot_init="learned")
    inputs, start = problem(core, slots=6)  # more than there are queries
    torch.testing.assert_close(core(inputs, start)[0], written_out(core, inputs, start, 3)[0], rtol=1e-6, atol=1e-6)
    queries = core.queries.expand(2, -1, -1)
    torch.testing.assert_close(core(inputs)[0], core(inputs, queries)[0])


def test_gaussian_slots_are_reparameterised_samples() -> None:
    core = make(slot_size=4)
    with torch.no_grad():
        core.mu.copy_(torch.tensor([-2.0, 0, 1, 5]))
        core.log_sigma.copy_(torch.tensor([0.1, 1, 3, 0.5]).log())
    slots = core.initial_slots(200, 100)
    flat = slots.flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), core.mu[0, 0], rtol=0, atol=0.1)
    torch.testing.assert_close(flat.std(0), core.log_sigma.exp()[0, 0], rtol=0.03, atol=0)
    correlation = torch.corrcoef(slots[:, 0].T.detach())
    assert (correlation - torch.eye(4)).abs().max() < 0.4  # entries are drawn one by one ...
    assert slots[0, 0].ne(slots[0, 1]).all()  # ... and so are slots ...
    assert slots[0, 0].ne(slots[1, 0]).all()  # ... and images
    slots.sum().backward()  # type: ignore[no-untyped-call]
    assert core.mu.grad is not None
    assert core.log_sigma.grad is not None
    torch.testing.assert_close(core.mu.grad, torch.full((1, 1, 4), 20_000.0).double())
    torch.testing.assert_close(core.log_sigma.grad, (slots - core.mu).sum((0, 1), keepdim=True).detach())


def test_learned_queries_start_every_image_alike_and_fewer_slots_take_the_first() -> None:
    core = make(num_slots=4, slot_init="learned")
    assert torch.equal(core.initial_slots(3), core.queries.expand(3, 4, 8))
    assert torch.equal(core.initial_slots(3, 2), core.queries[:2].expand(3, 2, 8))


def test_noise_on_queries_is_relative_and_has_no_gradient() -> None:
    core = make(num_slots=4, slot_init="learned")
    slots = core.initial_slots(2000, noise=0.5)
    noise = ((slots / core.queries - 1) / 0.5).detach()  # slots = queries * (1 + 0.5 * noise)
    assert noise.mean().abs() < 0.02
    assert (noise.std() - 1).abs() < 0.02
    assert noise[0].ne(noise[1]).all()
    slots.sum().backward()  # type: ignore[no-untyped-call]
    assert core.queries.grad is not None
    torch.testing.assert_close(core.queries.grad, torch.full((4, 8), 2000.0).double())


def gradients(core: SlotAttention, inputs: Tensor, loss: Tensor) -> dict[str, Tensor | None]:
    named = {"inputs": inputs, **dict(core.named_parameters())}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True), strict=True))


def assert_same_gradients(
    found: dict[str, Tensor | None], expected: dict[str, Tensor | None], skip: Iterable[str] = (), rtol: float = 1e-4
) -> None:
    largest = max(float(gradient.abs().max()) for gradient in expected.values() if gradient is not None)
    for name in found.keys() - set(skip):
        ours, theirs = found[name], expected[name]
        assert ours is not None, f"No gradient for {name}"
        assert theirs is not None, f"No expected gradient for {name}"
        # with one head the softmax over the slots cancels the bias of norm_slots: rounding alone is left
        scale = max(float(theirs.abs().max()), 1e-4 * largest)
        difference = float((ours - theirs).abs().max())
        assert difference <= rtol * scale, f"Gradient of {name} is off by {difference}, of {scale}"


def test_full_gradient_is_that_of_the_written_out_loop() -> None:
    core = make(slot_init="learned", num_heads=2)
    inputs, start = problem(core)
    inputs.requires_grad_()
    start = core.queries.expand(2, -1, -1)
    weights = torch.randn(2, 3, 8).double()
    found = gradients(core, inputs, (core(inputs)[0] * weights).sum())
    expected = gradients(core, inputs, (written_out(core, inputs, start, 3)[0] * weights).sum())
    assert_same_gradients(found, expected)


class Settled:
    """A small problem whose iteration is a contraction, at its fixed point, with the Jacobian there."""

    def __init__(self, **settings: Any) -> None:
        self.core = make(2, 4, 3, gradient="implicit", **settings)
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

    def vector_times_step(self, vector: Tensor) -> dict[str, Tensor | None]:
        """Multiply a vector with the derivative of one iteration by its parameters and inputs."""
        return gradients(self.core, self.inputs, self.step(self.slots)[0].flatten() @ vector)

    def truncated(self, terms: int) -> dict[str, Tensor | None]:
        powers = [torch.linalg.matrix_power(self.jacobian.T, i) @ self.loss_gradient for i in range(terms)]
        return self.vector_times_step(torch.stack(powers).sum(0))

    def solved(self) -> dict[str, Tensor | None]:
        return self.vector_times_step(torch.linalg.solve((torch.eye(8) - self.jacobian).T, self.loss_gradient))


@pytest.fixture(scope="module")
def settled() -> Settled:
    return Settled(slot_init="learned")


def error(found: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> float:
    pairs = [(found[name], expected[name]) for name in expected if expected[name] is not None]
    return math.sqrt(sum(float((a - b).square().sum()) for a, b in pairs if a is not None and b is not None))


def test_the_small_problem_has_settled_and_is_a_contraction(settled: Settled) -> None:
    assert torch.linalg.eigvals(settled.jacobian).abs().max() < 0.95
    assert torch.linalg.matrix_norm(settled.jacobian) > 0.3  # so that the terms of the series matter
    torch.testing.assert_close(settled.step(settled.slots)[0], settled.slots, rtol=0, atol=1e-7)


@pytest.mark.parametrize("terms", [1, 2, 3, 6])
def test_implicit_gradient_is_the_truncated_neumann_series(settled: Settled, terms: int) -> None:
    assert_same_gradients(settled.forward(terms), settled.truncated(terms), skip=["queries"])


def test_first_order_gradient_is_that_of_one_iteration_at_the_settled_slots(settled: Settled) -> None:
    expected = settled.vector_times_step(settled.loss_gradient)
    assert_same_gradients(settled.forward(1), expected, skip=["queries"], rtol=1e-6)


def test_neumann_series_converges_to_the_dense_solution(settled: Settled) -> None:
    exact = settled.solved()
    errors = [error(settled.forward(terms), exact) for terms in (1, 2, 4, 8, 16, 80)]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 1e-3 * errors[0]
    assert_same_gradients(settled.forward(200), exact, skip=["queries"])


@pytest.mark.parametrize("name", ["to_value.weight", "gru.weight_ih", "mlp.2.bias", "inputs"])
def test_converged_series_is_the_derivative_of_the_fixed_point(settled: Settled, name: str) -> None:
    # central difference of the loss at the fixed point itself, found anew for each shifted value
    tensor = dict(settled.core.named_parameters()).get(name, settled.inputs)
    direction = torch.randn_like(tensor)
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            tensor.add_(sign * 1e-3 * direction)
            keys, values = settled.core.project(settled.inputs)
            slots = settled.core.iterate(settled.slots, keys, values, 300)[0]
            losses.append(float(slots.flatten() @ settled.loss_gradient))
            tensor.sub_(sign * 1e-3 * direction)
    gradient = settled.solved()[name]
    assert gradient is not None
    assert float((gradient * direction).sum()) == pytest.approx((losses[0] - losses[1]) / 2e-3, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize(("mode", "terms", "total"), [("implicit", 1, 4), ("implicit", 3, 6), ("bilevel", 1, 3)])
def test_gradient_modes_change_no_value(mode: Gradient, terms: int, total: int) -> None:
    core = make(slot_init="learned", gradient=mode, neumann_terms=terms)
    inputs, _ = problem(core)
    expected = written_out(core, inputs, core.queries.expand(2, -1, -1), total)
    for found, value in zip(core(inputs, num_iterations=3), expected, strict=True):
        torch.testing.assert_close(found.double(), value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("terms", [1, 3])
def test_bilevel_gives_queries_the_gradient_at_the_settled_slots(terms: int) -> None:
    core = make(slot_init="learned", gradient="bilevel", neumann_terms=terms)
    inputs, _ = problem(core)
    inputs.requires_grad_()
    weights = torch.randn(2, 3, 8).double()
    found = gradients(core, inputs, (core(inputs, num_iterations=4)[0] * weights).sum())
    with torch.no_grad():
        settled = written_out(core, inputs, core.queries.expand(2, -1, -1), 3)[0]
    settled.requires_grad_()
    loss = (written_out(core, inputs, settled, terms)[0] * weights).sum()
    expected = gradients(core, inputs, loss)
    loss = (written_out(core, inputs, settled, terms)[0] * weights).sum()
    expected["queries"] = torch.autograd.grad(loss, settled)[0].sum(0)  # of all images
    assert_same_gradients(found, expected)


def test_bilevel_with_one_iteration_is_the_full_gradient() -> None:
    full, bilevel = make(slot_init="learned"), make(slot_init="learned", gradient="bilevel")
    inputs, _ = problem(full)
    inputs.requires_grad_()
    expected = gradients(full, inputs, full(inputs, num_iterations=1)[0].square().sum())
    assert_same_gradients(gradients(bilevel, inputs, bilevel(inputs, num_iterations=1)[0].square().sum()), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("slot_init", ["gaussian", "learned"])
def test_the_start_learns_unless_the_gradient_is_implicit(mode: Gradient, slot_init: Initialization) -> None:
    core = make(gradient=mode, slot_init=slot_init)
    core(problem(core)[0])[0].square().sum().backward()
    for name, parameter in core.named_parameters():
        learns = mode != "implicit" or name not in ("mu", "log_sigma", "queries")
        assert (parameter.grad is not None) == learns, name


def saved_bytes(call: Callable[[], object]) -> int:
    """Count what autograd keeps for the backward pass."""
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return total


@pytest.mark.parametrize("mode", ["implicit", "bilevel"])
def test_memory_does_not_grow_with_the_iterations(mode: Gradient) -> None:
    core, full = make(gradient=mode), make(gradient="full")
    inputs, start = problem(core)
    few, many = (saved_bytes(lambda t=t: core(inputs, start, num_iterations=t)) for t in (3, 30))  # type: ignore[misc]
    assert 0 < few == many
    few, many = (saved_bytes(lambda t=t: full(inputs, start, num_iterations=t)) for t in (3, 30))  # type: ignore[misc]
    assert many > 5 * few


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aggregation", ["mean", "sum", "batch"])
def test_autocast_stays_close_and_reaches_every_parameter(mode: Gradient, aggregation: Aggregation) -> None:
    torch.manual_seed(0)
    core = SlotAttention(4, 32, gradient=mode, slot_init="learned", aggregation=aggregation, num_heads=2)
    inputs = torch.randn(2, 500, 32)
    exact = core(inputs)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        slots, attention = core(inputs)
        loss = slots.float().square().mean()
    loss.backward()
    assert (slots - exact).abs().max() < 0.1
    assert (slots - exact).square().mean() < 1e-3 * exact.square().mean()
    assert attention.dtype == torch.float32
    torch.testing.assert_close(attention.sum(1), torch.ones(2, 500), rtol=0, atol=1e-5)
    for name, parameter in core.named_parameters():
        if name == "queries" and mode == "implicit":
            assert parameter.grad is None
            continue
        assert parameter.grad is not None, f"No gradient for {name}"
        assert parameter.grad.abs().sum() > 0, f"Gradient 0 for {name}"


def test_weighted_means_of_many_inputs_are_normalised_in_float32() -> None:
    core = SlotAttention(2, 4)
    attention = torch.rand(1, 1, 2, 16_384) * 0.01 + 0.5
    updates = core.aggregate(attention, torch.full((1, 1, 16_384, 4), 3.0, dtype=torch.bfloat16))
    torch.testing.assert_close(updates.double(), torch.full((1, 1, 2, 4), 3.0).double(), rtol=4e-3, atol=0)


def steps_of(core: SlotAttention, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Note the slots that each iteration ends with."""
    seen: list[Tensor] = []
    step = core.step

    def noted(*args: Tensor) -> tuple[Tensor, Tensor]:
        found = step(*args)
        seen.append(found[0])
        return found

    monkeypatch.setattr(core, "step", noted)
    return seen


def test_tolerance_stops_early_in_evaluation_only(settled: Settled, monkeypatch: pytest.MonkeyPatch) -> None:
    core = copy.deepcopy(settled.core)
    core.gradient, core.neumann_terms = "full", 1
    seen = steps_of(core, monkeypatch)
    start, inputs = settled.slots + 0.5, settled.inputs.detach()

    def count(tolerance: float) -> int:
        seen.clear()
        core.tolerance = tolerance
        with torch.no_grad():
            core(inputs, start, num_iterations=100)
        return len(seen)

    core.eval()
    stopped = count(1e-3)
    assert 2 < stopped < 100
    moves = [float((after - before).abs().max()) for before, after in zip([start, *seen], seen, strict=False)]
    assert moves[-1] <= 1e-3
    assert min(moves[:-1]) > 1e-3
    assert stopped < count(1e-6)
    assert count(0.0) == 100
    core.train()
    assert count(1e-3) == 100


@pytest.mark.parametrize("name", ["num_slots", "slot_size", "num_iterations", "num_heads", "neumann_terms"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` to be at least 1, but got 0"):
        SlotAttention(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["slot_init", "gradient", "aggregation"])
def test_unknown_choices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` to be one of .*, but got 'other'"):
        SlotAttention(**{name: "other"})  # type: ignore[arg-type]


def test_heads_must_divide_the_slots() -> None:
    with pytest.raises(ValueError, match="`num_heads` to divide slot_size 64, but got 3"):
        SlotAttention(num_heads=3)


def test_calls_out_of_range_are_refused() -> None:
    core = make(slot_init="learned")
    inputs, _ = problem(core)
    with pytest.raises(ValueError, match="`num_iterations` to be at least 1, but got 0"):
        core(inputs, num_iterations=0)
    with pytest.raises(ValueError, match="`num_slots` to be at least 1, but got 0"):
        core(inputs, num_slots=0)
    with pytest.raises(ValueError, match=r"`num_slots` to be at most 3, .*, but got 4; use slot_init='gaussian'"):
        core(inputs, num_slots=4)


@pytest.mark.parametrize(("slot_init", "count"), [("gaussian", 54_336), ("learned", 54_336 - 2 * 64 + 7 * 64)])
def test_number_of_parameters(slot_init: Initialization, count: int) -> None:
    assert sum(parameter.numel() for parameter in SlotAttention(slot_init=slot_init).parameters()) == count


def test_initial_parameters_are_those_of_the_original() -> None:
    core = SlotAttention(slot_size=1024, mlp_size=1)
    bound = math.sqrt(6 / 1025)  # Keras: Glorot of 1 input and D outputs
    for parameter in (core.mu, core.log_sigma):
        assert 0.95 * bound < parameter.abs().max() <= bound
        assert parameter.mean().abs() < 0.1 * bound
    queries = SlotAttention(50, 64, slot_init="learned").queries
    bound = math.sqrt(6 / (50 + 64))
    assert 0.95 * bound < queries.abs().max() <= bound


def test_the_same_seed_gives_the_same_slots() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        core = SlotAttention(3, 16)
        results.append(core(torch.randn(2, 9, 16))[0])
    assert torch.equal(*results)


@pytest.mark.parametrize("slot_init", ["gaussian", "learned"])
def test_copies_and_state_dicts_carry_everything(slot_init: Initialization) -> None:
    core = make(slot_init=slot_init, aggregation="batch").float()
    inputs, start = (tensor.float() for tensor in problem(core))
    core(inputs, start)  # moves the running statistics
    fresh = SlotAttention(3, 8, 5, mlp_size=11, slot_init=slot_init, aggregation="batch")
    fresh.load_state_dict(core.state_dict())
    expected = core.eval()(inputs, start)[0]
    for twin in (fresh, copy.deepcopy(core)):
        assert torch.equal(twin.eval()(inputs, start)[0], expected)
        assert not {id(parameter) for parameter in twin.parameters()} & {
            id(parameter) for parameter in core.parameters()
        }


@pytest.mark.parametrize(("slot_init", "names"), [("gaussian", {"mu", "log_sigma"}), ("learned", {"queries"})])
def test_what_the_implicit_gradient_cannot_reach_is_not_trained(slot_init: Any, names: set[str]) -> None:
    core = SlotAttention(num_slots=3, slot_size=8, slot_init=slot_init, gradient="implicit")
    assert {name for name, parameter in core.named_parameters() if not parameter.requires_grad} == names


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_core_works_in_a_true_precision(dtype: torch.dtype) -> None:
    core = SlotAttention(num_slots=3, slot_size=8).to(dtype)
    slots, _ = core(torch.randn(2, 5, 8, dtype=dtype))
    assert slots.dtype == dtype


def test_kmeans_start_is_soft_kmeans() -> None:
    """Three tight clusters, a slot started from one point of each: a step finds the means and the assignment."""
    torch.manual_seed(0)
    centres = 3 * torch.randn(3, 32)
    inputs = (centres[:, None] + 0.05 * torch.randn(3, 20, 32)).view(1, 60, 32)
    core = SlotAttention(3, 32, slot_init="learned")
    core.init_as_kmeans()
    one_each = torch.zeros(1, 3, 60)
    one_each[0, [0, 1, 2], [0, 20, 40]] = 1
    _, attention = core(inputs, clusters=one_each, num_iterations=1)
    assert attention[0].argmax(0).tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert attention.max(1).values.min() > 0.8


def test_clusters_are_the_attention_of_an_update_before_the_first_iteration() -> None:
    core = SlotAttention(3, 8, num_heads=2, slot_init="learned").double()
    inputs, clusters = torch.randn(2, 10, 8).double(), torch.rand(2, 3, 10).double()
    values = core.project(inputs)[1]
    weights = clusters + core.epsilon
    weights = weights / weights.sum(2, keepdim=True)
    gathered = torch.einsum("bkn,bhnd->bhkd", weights, values)
    start = core.update(core.initial_slots(2), gathered)
    expected, _ = core(inputs, start)
    torch.testing.assert_close(core(inputs, clusters=clusters)[0], expected)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_a_slot_without_a_share_is_left_out_as_if_it_were_not_there(mode: Gradient, heads: int) -> None:
    torch.manual_seed(0)
    core = SlotAttention(4, 8, mlp_size=16, num_heads=heads, slot_init="learned", gradient=mode).double()
    inputs, clusters = torch.randn(2, 10, 8).double(), torch.rand(2, 4, 10).double()
    clusters[:, 3] = clusters[1, 2] = 0
    slots, attention = core(inputs, clusters=clusters)
    for image, used in enumerate((3, 2)):
        one, shares = inputs[image : image + 1], clusters[image : image + 1, :used]
        alone, attended = core(one, num_slots=used, clusters=shares)
        torch.testing.assert_close(slots[image, :used], alone[0])
        torch.testing.assert_close(attention[image, :used], attended[0])
        assert not slots[image, used:].any()
        assert not attention[image, used:].any()
    (slots.square().sum() + attention.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in core.parameters() if p.requires_grad)
