import copy
import math
from typing import Any

import pytest
import torch

from object_discovery.layers import SlotAttention
from object_discovery.layers.slot_attention import Aggregation, Gradient, SlotInit
from tests.layers.slot_attention_reference import MODES, make_core, make_inputs, reference_forward


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("aggregation", ["mean", "sum"])
def test_forward_matches_reference_implementation(iterations: int, heads: int, aggregation: Aggregation) -> None:
    core = make_core(num_heads=heads, aggregation=aggregation)
    inputs, initial_slots = make_inputs(core)
    slots, attention = core(inputs, initial_slots, num_iterations=iterations)
    expected_slots, expected_attention = reference_forward(core, inputs, initial_slots, iterations, aggregation)
    torch.testing.assert_close(slots, expected_slots, rtol=1e-6, atol=1e-6)  # the softmax is in float32
    torch.testing.assert_close(attention.double(), expected_attention, rtol=1e-6, atol=1e-6)


def test_norm_eps_sets_epsilon_of_all_layer_norms() -> None:
    core = SlotAttention(norm_eps=1e-3)
    assert [norm.eps for norm in (core.norm_inputs, core.norm_slots, core.norm_mlp)] == [1e-3] * 3


def test_epsilon_is_added_to_attention_before_normalisation() -> None:
    core = make_core(epsilon=0.5)
    attention, values = torch.rand(1, 1, 2, 6), torch.randn(1, 1, 6, 8).double()
    weights = (attention[0, 0] + 0.5) / (attention[0, 0] + 0.5).sum(1, keepdim=True)
    torch.testing.assert_close(core.aggregate(attention, values)[0, 0], weights.double() @ values[0, 0])
    # a slot without attention gets the mean of the values
    update = SlotAttention(2, 8).aggregate(torch.zeros(1, 1, 2, 6), values.float())
    torch.testing.assert_close(update[0, 0], values[0, 0].float().mean(0).expand(2, 8))


def test_batch_aggregation_normalises_over_images_and_slots() -> None:
    core = make_core(aggregation="batch", num_heads=2)
    attention, values = torch.rand(3, 2, 4, 6), torch.randn(3, 2, 6, 4).double()
    sums = torch.stack(
        [torch.stack([a[h].double() @ v[h] for h in range(2)]) for a, v in zip(attention, values, strict=True)]
    )
    rows = torch.cat([sums[:, 0], sums[:, 1]], dim=-1)  # (B, K, D): heads concatenated
    norm = core.norm_updates
    assert norm is not None
    mean, variance = rows.mean((0, 1)), rows.var((0, 1), unbiased=False)
    scaled = (rows - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias
    actual = core.aggregate(attention, values)
    torch.testing.assert_close(torch.cat([actual[:, 0], actual[:, 1]], dim=-1).double(), scaled, rtol=1e-4, atol=1e-5)
    core.eval()
    norm.running_mean, norm.running_var = torch.full((8,), 2.0).double(), torch.full((8,), 4.0).double()
    scaled = (rows - 2) / (4 + norm.eps) ** 0.5 * norm.weight + norm.bias
    actual = core.aggregate(attention, values)
    torch.testing.assert_close(torch.cat([actual[:, 0], actual[:, 1]], dim=-1).double(), scaled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["mean", "sum", "batch"])
@pytest.mark.parametrize("heads", [1, 2])
def test_equivariant_to_slot_order_and_invariant_to_input_order(aggregation: Aggregation, heads: int) -> None:
    core = make_core(aggregation=aggregation, num_heads=heads).float()
    inputs, initial_slots = (tensor.float() for tensor in make_inputs(core, slots=4))
    slots, attention = core(inputs, initial_slots)
    order = torch.tensor([2, 0, 3, 1])
    permuted_slots, permuted_attention = core(inputs, initial_slots[:, order])
    torch.testing.assert_close(permuted_slots, slots[:, order])
    torch.testing.assert_close(permuted_attention, attention[:, order])
    assert not torch.allclose(slots, slots[:, order])
    shuffle = torch.randperm(inputs.shape[1])
    shuffled_slots, shuffled_attention = core(inputs[:, shuffle], initial_slots)
    torch.testing.assert_close(shuffled_slots, slots)
    torch.testing.assert_close(shuffled_attention, attention[:, :, shuffle])


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("mode", MODES)
def test_attention_sums_to_one_over_slots(heads: int, mode: Gradient) -> None:
    core = make_core(num_heads=heads, gradient=mode)
    inputs, initial_slots = make_inputs(core)
    attention = core(20 * inputs, initial_slots)[1]
    torch.testing.assert_close(attention.sum(1), torch.ones(2, 7))
    assert attention.dtype == torch.float32
    assert attention.min() >= 0


def test_number_of_slots_and_iterations_are_arguments_of_forward() -> None:
    core = make_core()
    inputs, initial_slots = make_inputs(core)
    for slots in (1, 2, 9):
        result, attention = core(inputs, num_slots=slots)
        assert result.shape == (2, slots, 8)
        assert attention.shape == (2, slots, 7)
    after_one_iteration = core(inputs, initial_slots, num_iterations=1)[0]
    torch.testing.assert_close(
        core(inputs, after_one_iteration, num_iterations=2)[0], core(inputs, initial_slots, num_iterations=3)[0]
    )
    torch.testing.assert_close(core(inputs, initial_slots)[0], core(inputs, initial_slots, num_iterations=3)[0])
    assert not torch.allclose(core(inputs, initial_slots)[0], after_one_iteration)


def test_given_slots_replace_initial_slots() -> None:
    core = make_core(slot_init="learned")
    inputs, initial_slots = make_inputs(core, slots=6)  # more than there are queries
    torch.testing.assert_close(
        core(inputs, initial_slots)[0], reference_forward(core, inputs, initial_slots, 3)[0], rtol=1e-6, atol=1e-6
    )
    queries = core.queries.expand(2, -1, -1)
    torch.testing.assert_close(core(inputs)[0], core(inputs, queries)[0])


def test_gaussian_slots_are_reparameterised_samples() -> None:
    core = make_core(slot_size=4)
    with torch.no_grad():
        core.mu.copy_(torch.tensor([-2.0, 0, 1, 5]))
        core.log_sigma.copy_(torch.tensor([0.1, 1, 3, 0.5]).log())
    slots = core.initial_slots(200, 100)
    flat = slots.flatten(0, 1)
    torch.testing.assert_close(flat.mean(0), core.mu[0, 0], rtol=0, atol=0.1)
    torch.testing.assert_close(flat.std(0), core.log_sigma.exp()[0, 0], rtol=0.03, atol=0)
    correlation = torch.corrcoef(slots[:, 0].T.detach())
    assert (correlation - torch.eye(4)).abs().max() < 0.4  # features are independent ...
    assert slots[0, 0].ne(slots[0, 1]).all()  # ... and so are slots ...
    assert slots[0, 0].ne(slots[1, 0]).all()  # ... and images
    slots.sum().backward()  # type: ignore[no-untyped-call]
    assert core.mu.grad is not None
    assert core.log_sigma.grad is not None
    torch.testing.assert_close(core.mu.grad, torch.full((1, 1, 4), 20_000.0).double())
    torch.testing.assert_close(core.log_sigma.grad, (slots - core.mu).sum((0, 1), keepdim=True).detach())


def test_learned_queries_are_shared_by_images_and_fewer_slots_use_the_first_queries() -> None:
    core = make_core(num_slots=4, slot_init="learned")
    assert torch.equal(core.initial_slots(3), core.queries.expand(3, 4, 8))
    assert torch.equal(core.initial_slots(3, 2), core.queries[:2].expand(3, 2, 8))


def test_query_noise_is_relative_and_has_no_gradient() -> None:
    core = make_core(num_slots=4, slot_init="learned")
    slots = core.initial_slots(2000, noise=0.5)
    noise = ((slots / core.queries - 1) / 0.5).detach()  # slots = queries * (1 + 0.5 * noise)
    assert noise.mean().abs() < 0.02
    assert (noise.std() - 1).abs() < 0.02
    assert noise[0].ne(noise[1]).all()
    slots.sum().backward()  # type: ignore[no-untyped-call]
    assert core.queries.grad is not None
    torch.testing.assert_close(core.queries.grad, torch.full((4, 8), 2000.0).double())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aggregation", ["mean", "sum", "batch"])
def test_autocast_is_close_to_float32_and_every_parameter_gets_a_gradient(
    mode: Gradient, aggregation: Aggregation
) -> None:
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


def test_weighted_mean_of_many_bfloat16_inputs_is_accurate() -> None:
    core = SlotAttention(2, 4)
    attention = torch.rand(1, 1, 2, 16_384) * 0.01 + 0.5
    updates = core.aggregate(attention, torch.full((1, 1, 16_384, 4), 3.0, dtype=torch.bfloat16))
    torch.testing.assert_close(updates.double(), torch.full((1, 1, 2, 4), 3.0).double(), rtol=4e-3, atol=0)


@pytest.mark.parametrize("name", ["num_slots", "slot_size", "num_iterations", "num_heads", "neumann_terms"])
def test_size_below_one_raises(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` to be at least 1, but got 0"):
        SlotAttention(**{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["slot_init", "gradient", "aggregation"])
def test_unknown_choice_raises(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` to be one of .*, but got 'other'"):
        SlotAttention(**{name: "other"})  # type: ignore[arg-type]


def test_num_heads_not_dividing_slot_size_raises() -> None:
    with pytest.raises(ValueError, match="`num_heads` to be a divisor of slot_size 64, but got 3"):
        SlotAttention(num_heads=3)


def test_forward_argument_out_of_range_raises() -> None:
    core = make_core(slot_init="learned")
    inputs, _ = make_inputs(core)
    with pytest.raises(ValueError, match="`num_iterations` to be at least 1, but got 0"):
        core(inputs, num_iterations=0)
    with pytest.raises(ValueError, match="`num_slots` to be at least 1, but got 0"):
        core(inputs, num_slots=0)
    with pytest.raises(ValueError, match=r"`num_slots` to be at most 3, .*, but got 4; use slot_init='gaussian'"):
        core(inputs, num_slots=4)


@pytest.mark.parametrize(("slot_init", "count"), [("gaussian", 54_336), ("learned", 54_336 - 2 * 64 + 7 * 64)])
def test_number_of_parameters_is_as_published(slot_init: SlotInit, count: int) -> None:
    assert sum(parameter.numel() for parameter in SlotAttention(slot_init=slot_init).parameters()) == count


def test_initial_slot_parameters_are_glorot_uniform() -> None:
    core = SlotAttention(slot_size=1024, mlp_size=1)
    bound = math.sqrt(6 / 1025)  # Keras: Glorot of 1 input and D outputs
    for parameter in (core.mu, core.log_sigma):
        assert 0.95 * bound < parameter.abs().max() <= bound
        assert parameter.mean().abs() < 0.1 * bound
    queries = SlotAttention(50, 64, slot_init="learned").queries
    bound = math.sqrt(6 / (50 + 64))
    assert 0.95 * bound < queries.abs().max() <= bound


def test_same_seed_gives_same_slots() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        core = SlotAttention(3, 16)
        results.append(core(torch.randn(2, 9, 16))[0])
    assert torch.equal(*results)


@pytest.mark.parametrize("slot_init", ["gaussian", "learned"])
def test_state_dict_and_deepcopy_reproduce_outputs(slot_init: SlotInit) -> None:
    core = make_core(slot_init=slot_init, aggregation="batch").float()
    inputs, initial_slots = (tensor.float() for tensor in make_inputs(core))
    core(inputs, initial_slots)  # updates the running statistics
    loaded = SlotAttention(3, 8, 5, mlp_size=11, slot_init=slot_init, aggregation="batch")
    loaded.load_state_dict(core.state_dict())
    expected = core.eval()(inputs, initial_slots)[0]
    for copied in (loaded, copy.deepcopy(core)):
        assert torch.equal(copied.eval()(inputs, initial_slots)[0], expected)
        assert not {id(parameter) for parameter in copied.parameters()} & {
            id(parameter) for parameter in core.parameters()
        }


@pytest.mark.parametrize(("slot_init", "names"), [("gaussian", {"mu", "log_sigma"}), ("learned", {"queries"})])
def test_implicit_gradient_freezes_initial_slot_parameters(slot_init: Any, names: set[str]) -> None:
    core = SlotAttention(num_slots=3, slot_size=8, slot_init=slot_init, gradient="implicit")
    assert {name for name, parameter in core.named_parameters() if not parameter.requires_grad} == names


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_true_half_and_double_precision(dtype: torch.dtype) -> None:
    core = SlotAttention(num_slots=3, slot_size=8).to(dtype)
    slots, _ = core(torch.randn(2, 5, 8, dtype=dtype))
    assert slots.dtype == dtype


def test_init_as_kmeans_recovers_clusters_in_one_iteration() -> None:
    """Three compact clusters, one slot initialised at a point of each: one iteration assigns all points."""
    torch.manual_seed(0)
    centres = 3 * torch.randn(3, 32)
    inputs = (centres[:, None] + 0.05 * torch.randn(3, 20, 32)).view(1, 60, 32)
    core = SlotAttention(3, 32, slot_init="learned")
    core.init_as_kmeans()
    clusters = torch.zeros(1, 3, 60)
    clusters[0, [0, 1, 2], [0, 20, 40]] = 1
    _, attention = core(inputs, clusters=clusters, num_iterations=1)
    assert attention[0].argmax(0).tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert attention.max(1).values.min() > 0.8


def test_clusters_update_initial_slots_before_first_iteration() -> None:
    core = SlotAttention(3, 8, num_heads=2, slot_init="learned").double()
    inputs, clusters = torch.randn(2, 10, 8).double(), torch.rand(2, 3, 10).double()
    values = core.project(inputs)[1]
    weights = clusters + core.epsilon
    weights = weights / weights.sum(2, keepdim=True)
    updates = torch.einsum("bkn,bhnd->bhkd", weights, values)
    initial_slots = core.update(core.initial_slots(2), updates)
    expected, _ = core(inputs, initial_slots)
    torch.testing.assert_close(core(inputs, clusters=clusters)[0], expected)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_inactive_slots_do_not_affect_active_slots(mode: Gradient, heads: int) -> None:
    torch.manual_seed(0)
    core = SlotAttention(4, 8, mlp_size=16, num_heads=heads, slot_init="learned", gradient=mode).double()
    inputs, clusters = torch.randn(2, 10, 8).double(), torch.rand(2, 4, 10).double()
    clusters[:, 3] = clusters[1, 2] = 0
    slots, attention = core(inputs, clusters=clusters)
    for image, active in enumerate((3, 2)):
        one_image, active_clusters = inputs[image : image + 1], clusters[image : image + 1, :active]
        expected_slots, expected_attention = core(one_image, num_slots=active, clusters=active_clusters)
        torch.testing.assert_close(slots[image, :active], expected_slots[0])
        torch.testing.assert_close(attention[image, :active], expected_attention[0])
        assert not slots[image, active:].any()
        assert not attention[image, active:].any()
    (slots.square().sum() + attention.square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in core.parameters() if p.requires_grad)


def test_shared_query_is_that_of_all_slots_and_needs_clusters() -> None:
    layer = SlotAttention(3, 8, 6, slot_init="shared")
    assert layer.queries.shape == (1, 8)
    assert layer.initial_slots(2, 7).equal(layer.queries.expand(2, 7, 8))
    clusters = torch.eye(5).expand(2, 5, 5)
    assert layer(torch.randn(2, 5, 6), num_slots=5, clusters=clusters)[0].shape == (2, 5, 8)
    with pytest.raises(ValueError, match="`clusters` with slot_init='shared', but got None"):
        layer(torch.randn(2, 5, 6))
