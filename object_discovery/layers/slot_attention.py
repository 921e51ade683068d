"""Slot Attention: iterative attention that is normalised over the slots.

The whole algorithm is in this file. `step` is one iteration of Locatello et al. (2020), `forward` iterates it, and
`solve` decides through which iterations the gradient is backpropagated.

References:
    [1] Locatello et al., Object-Centric Learning with Slot Attention, NeurIPS 2020, arXiv 2006.15055.
    [2] Chang, Griffiths and Levine, Object Representations as Fixed Points, NeurIPS 2022, arXiv 2207.00787.
    [3] Jia, Liu and Huang, Improving Object-centric Learning with Query Optimization, ICLR 2023, arXiv 2210.08990.
    [4] Singh, Deng and Ahn, Illiterate DALL-E Learns to Compose (SLATE), ICLR 2022, arXiv 2110.11405.
    [5] Krimmel et al., Attention Normalization Impacts Cardinality Generalization in Slot Attention, TMLR 2024,
        arXiv 2407.04170.
    [6] Gao, Hohmann and Neumann, Enhancing Interpretable Object Abstraction via Clustering-based Slot Initialization,
        2023, arXiv 2308.11369.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from object_discovery.errors import check_argument, check_choice
from object_discovery.layers.compositing import slot_softmax

SlotInit = Literal["gaussian", "learned", "shared"]
Gradient = Literal["full", "implicit", "bilevel"]
Aggregation = Literal["mean", "sum", "batch"]


class SlotAttention(nn.Module):
    """Slot Attention layer (Locatello et al. 2020).

    Shapes: B images, N inputs, K slots, D slot size. The numbers in brackets are the references of the module.

    Args:
        num_slots: Default K.
        slot_size: D.
        input_size: Dimension of the inputs. None: D.
        mlp_size: Hidden size of the residual MLP.
        num_iterations: Default number of iterations T, at least 1.
        num_heads: Attention heads, a divisor of D; the softmax is over heads and slots jointly, as in SLATE [4].
        slot_init: Initial slots. `gaussian` [1]: samples of one learned Gaussian; slots are exchangeable and their
            number is free. `learned` [3]: one learned query for each slot, at most `num_slots`; it breaks the symmetry,
            which makes training faster and more stable. `shared`: one learned query for all slots, whose number is
            free; only with clusters, which break the symmetry.
        gradient: `full` [1]: backpropagate through all T iterations. `implicit` [2]: T iterations without gradient,
            then `neumann_terms` more with gradient; memory does not grow with T, and the parameters of the initial
            slots get no gradient. `bilevel` [3]: as `implicit`, with T iterations in total for one term, and a
            straight-through gradient from the fixed point to the initial slots.
        neumann_terms: Terms of the Neumann series `(I - J)^-1 = I + J + J^2 + ...` in the implicit gradient, J the
            Jacobian of an iteration at the fixed point; 1 is the first-order gradient of [2]. Computed by
            differentiating as many more iterations, which gives exactly these terms at the fixed point.
        aggregation: Aggregation of the values by a slot. `mean` [1]: weighted mean. `sum` [5]: weighted sum divided by
            N. `batch` [5]: batch-normalised weighted sum. The latter two preserve how much a slot attends to, and
            generalise better to more slots than in training.
        tolerance: In evaluation mode, stop iterating once no entry of the slots changes by more than this (costs a
            device synchronisation per iteration). 0: always do T iterations.
        epsilon: Added to the attention before its normalisation over the inputs.
        norm_eps: Epsilon of the layer normalisations.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> core = SlotAttention(num_slots=4, slot_size=64)
        >>> slots, attention = core(torch.randn(2, 100, 64))
        >>> slots.shape, attention.shape  # attention sums to 1 over the slots
        (torch.Size([2, 4, 64]), torch.Size([2, 4, 100]))
        >>> core(torch.randn(2, 100, 64), num_slots=9, num_iterations=5)[0].shape
        torch.Size([2, 9, 64])
    """

    def __init__(
        self,
        num_slots: int = 7,
        slot_size: int = 64,
        input_size: int | None = None,
        *,
        mlp_size: int = 128,
        num_iterations: int = 3,
        num_heads: int = 1,
        slot_init: SlotInit = "gaussian",
        gradient: Gradient = "full",
        neumann_terms: int = 1,
        aggregation: Aggregation = "mean",
        tolerance: float = 0.0,
        epsilon: float = 1e-8,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        for name, value in (
            ("num_slots", num_slots),
            ("slot_size", slot_size),
            ("num_iterations", num_iterations),
            ("num_heads", num_heads),
            ("neumann_terms", neumann_terms),
        ):
            check_argument(value >= 1, name, "at least 1", value)
        for name, choice, choices in (
            ("slot_init", slot_init, get_args(SlotInit)),
            ("gradient", gradient, get_args(Gradient)),
            ("aggregation", aggregation, get_args(Aggregation)),
        ):
            check_choice(name, choice, choices)
        check_argument(slot_size % num_heads == 0, "num_heads", f"a divisor of slot_size {slot_size}", num_heads)
        self.num_slots, self.slot_size, self.num_heads = num_slots, slot_size, num_heads
        self.num_iterations, self.neumann_terms, self.tolerance = num_iterations, neumann_terms, tolerance
        self.slot_init, self.gradient, self.aggregation, self.epsilon = slot_init, gradient, aggregation, epsilon
        input_size = input_size or slot_size

        if slot_init == "gaussian":
            self.mu = nn.Parameter(torch.empty(1, 1, slot_size))
            self.log_sigma = nn.Parameter(torch.empty(1, 1, slot_size))
        else:
            self.queries = nn.Parameter(torch.empty(1 if slot_init == "shared" else num_slots, slot_size))
        self.norm_inputs = nn.LayerNorm(input_size, eps=norm_eps)
        self.norm_slots = nn.LayerNorm(slot_size, eps=norm_eps)
        self.norm_mlp = nn.LayerNorm(slot_size, eps=norm_eps)
        self.to_query = nn.Linear(slot_size, slot_size, bias=False)
        self.to_key = nn.Linear(input_size, slot_size, bias=False)
        self.to_value = nn.Linear(input_size, slot_size, bias=False)
        self.gru = nn.GRUCell(slot_size, slot_size)
        self.mlp = nn.Sequential(nn.Linear(slot_size, mlp_size), nn.ReLU(), nn.Linear(mlp_size, slot_size))
        self.norm_updates = nn.BatchNorm1d(slot_size) if aggregation == "batch" else None
        self.reset_slots()
        if gradient == "implicit":  # these parameters get no gradient, which DistributedDataParallel has to know
            for parameter in (self.mu, self.log_sigma) if slot_init == "gaussian" else (self.queries,):
                parameter.requires_grad_(False)

    @torch.no_grad()
    def reset_slots(self, *, standard_normal: bool = False) -> None:
        """Initialise the parameters of the initial slots.

        Args:
            standard_normal: Sample the mean of the Gaussian from N(0, 1) and its log standard deviation from U(0, 1)
                (Stange et al. 2023), in place of Glorot uniform.
        """
        if standard_normal and self.slot_init == "gaussian":
            nn.init.normal_(self.mu)
            nn.init.uniform_(self.log_sigma)
        elif self.slot_init == "gaussian":
            bound = math.sqrt(6 / (1 + self.slot_size))  # Glorot uniform of shape (1, 1, D), as in the original
            nn.init.uniform_(self.mu, -bound, bound)
            nn.init.uniform_(self.log_sigma, -bound, bound)
        else:
            nn.init.xavier_uniform_(self.queries)

    @torch.no_grad()
    def init_as_kmeans(self, sharpness: float = 2.0) -> None:
        """Initialise the weights such that the iterations are soft k-means on the inputs.

        Slot Attention generalises soft k-means [1]. Queries, keys and values share one orthogonal projection, the GRU
        passes its input on, and the residual MLP is small, so that a slot is the mean of the inputs that it attends to,
        and attends to inputs that are similar to it.

        Args:
            sharpness: Scale of the keys, the inverse temperature of soft k-means.
        """
        size, inputs = self.to_value.weight.shape
        nn.init.orthogonal_(self.to_value.weight, gain=max(inputs / size, 1) ** 0.5)
        self.to_key.weight.copy_(sharpness * self.to_value.weight)
        nn.init.eye_(self.to_query.weight)
        gates, candidate = slice(0, 2 * size), slice(2 * size, None)
        for weight in (self.gru.weight_ih, self.gru.weight_hh):
            weight[gates] *= 0.1
        self.gru.weight_hh[candidate] *= 0.1
        nn.init.eye_(self.gru.weight_ih[candidate])
        for bias in (self.gru.bias_ih, self.gru.bias_hh):
            nn.init.zeros_(bias)
        self.gru.bias_ih[size : 2 * size] = -2  # the update gate that keeps the previous slot is nearly 0
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        last.weight *= 0.1

    def initial_slots(self, batch_size: int, num_slots: int | None = None, noise: float = 0.0) -> Tensor:
        """Compute the initial slots.

        Args:
            batch_size: B.
            num_slots: K. None: the default.
            noise: Standard deviation of Gaussian noise on learned queries, relative to their values; [3] anneals it
                from 1 to 0 along a cosine over the first 30,000 training steps.

        Returns:
            Slots, `(B, K, D)`.

        Raises:
            ValueError: If `num_slots` is below 1, or above the number of learned queries.
        """
        num_slots = self.num_slots if num_slots is None else num_slots
        check_argument(num_slots >= 1, "num_slots", "at least 1", num_slots)
        if self.slot_init == "gaussian":
            sample = torch.randn(batch_size, num_slots, self.slot_size, device=self.mu.device, dtype=self.mu.dtype)
            return self.mu + self.log_sigma.exp() * sample
        if self.slot_init == "learned" and num_slots > self.num_slots:
            raise ValueError(
                f"Expected argument `num_slots` to be at most {self.num_slots}, the number of learned queries, "
                f"but got {num_slots}; use slot_init='gaussian' to choose the number freely"
            )
        queries = self.queries.expand(num_slots, -1) if self.slot_init == "shared" else self.queries[:num_slots]
        slots = queries.expand(batch_size, -1, -1)
        return slots + noise * torch.randn_like(slots) * slots.detach() if noise else slots

    def forward(
        self,
        inputs: Tensor,
        slots: Tensor | None = None,
        *,
        num_slots: int | None = None,
        num_iterations: int | None = None,
        noise: float = 0.0,
        clusters: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the slots of a batch.

        Args:
            inputs: Features with position embeddings added, `(B, N, input_size)`.
            slots: Initial slots, `(B, K, D)`. None: `initial_slots`.
            num_slots: K. None: the default.
            num_iterations: T. None: the default.
            noise: Relative noise on learned queries, see `initial_slots`.
            clusters: Soft assignments of the inputs `(B, K, N)`, at least 0, for clustering-based slot initialisation
                [6]: the initial slots are updated once with them as the attention. A slot whose assignments are all 0
                is inactive: it is masked in all iterations. At least one slot of each image must be active. None: no
                such update.

        Returns:
            Slots `(B, K, D)`, and the attention of the last iteration `(B, K, N)`, float32, summed over heads, before
            its normalisation over the inputs; it sums to 1 over the slots. Both are 0 for inactive slots.

        Raises:
            ValueError: If `num_iterations` is below 1, or `num_slots` out of range, see `initial_slots`.
        """
        iterations = self.num_iterations if num_iterations is None else num_iterations
        check_argument(iterations >= 1, "num_iterations", "at least 1", iterations)
        initial = self.initial_slots(len(inputs), num_slots, noise) if slots is None else slots
        if self.slot_init == "shared" and slots is None and clusters is None:
            raise ValueError("Expected argument `clusters` with slot_init='shared', but got None")
        keys, values = self.project(inputs)
        if clusters is None:
            return self.solve(initial, keys, values, iterations)
        assignments = clusters[:, None].expand(-1, self.num_heads, -1, -1)
        initial = self.update(initial, self.aggregate(assignments, values))
        active = clusters.amax(2) > 0
        slots, attention = self.solve(initial, keys, values, iterations, active)
        return slots * active[..., None], attention

    def solve(
        self, initial: Tensor, keys: Tensor, values: Tensor, iterations: int, active: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Iterate from initial slots `(B, K, D)` with the selected gradient; for the other arguments see `step`."""
        if self.gradient == "full":
            return self.iterate(initial, keys, values, iterations, active)
        without_gradient = iterations if self.gradient == "implicit" else iterations - 1
        fixed_point = initial.detach()
        if without_gradient:
            # Autocast caches the bfloat16 copies of weights; copies made under no_grad would later block gradients.
            device = keys.device.type
            cast = torch.autocast(device, enabled=torch.is_autocast_enabled(device), cache_enabled=False)
            with torch.no_grad(), cast:
                fixed_point, _ = self.iterate(fixed_point, keys, values, without_gradient, active)
        if self.gradient == "bilevel":
            fixed_point = fixed_point + (initial - initial.detach())  # straight-through gradient to the initial slots
        return self.iterate(fixed_point, keys, values, self.neumann_terms, active)

    def project(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Project inputs `(B, N, input_size)` to scaled keys and values, both `(B, heads, N, D / heads)`."""
        inputs = self.norm_inputs(inputs)
        keys = rearrange(self.to_key(inputs), "b n (h d) -> b h n d", h=self.num_heads)
        values = rearrange(self.to_value(inputs), "b n (h d) -> b h n d", h=self.num_heads)
        return keys * (self.slot_size // self.num_heads) ** -0.5, values

    def iterate(
        self, slots: Tensor, keys: Tensor, values: Tensor, iterations: int, active: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Iterate `step`; in evaluation mode stop at convergence to within `tolerance`."""
        for _ in range(iterations):
            previous = slots
            slots, attention = self.step(slots, keys, values, active)
            if self.tolerance and not self.training and (slots - previous).abs().max() <= self.tolerance:
                break
        return slots, attention

    def step(self, slots: Tensor, keys: Tensor, values: Tensor, active: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Do one iteration; with the gradients `implicit` and `bilevel` the slots approximate its fixed point.

        Args:
            slots: `(B, K, D)`.
            keys: Scaled keys, `(B, heads, N, D / heads)`.
            values: `(B, heads, N, D / heads)`.
            active: Which slots are active, bool `(B, K)`. None: all.

        Returns:
            The next slots `(B, K, D)` and the attention `(B, K, N)`.
        """
        queries = rearrange(self.to_query(self.norm_slots(slots)), "b k (h d) -> b h k d", h=self.num_heads)
        logits = queries @ keys.transpose(-1, -2)  # (B, heads, K, N)
        # Softmax over heads and slots, in float32, since sums over thousands of inputs follow.
        mask = None if active is None else active.repeat(1, self.num_heads)[..., None]
        attention = slot_softmax(logits.flatten(1, 2), 1, mask).view(logits.shape)
        return self.update(slots, self.aggregate(attention, values)), attention.sum(1)

    def update(self, slots: Tensor, updates: Tensor) -> Tensor:
        """Update slots `(B, K, D)` by aggregated values `(B, heads, K, D / heads)`: GRU and residual MLP."""
        updates = rearrange(updates, "b h k d -> b k (h d)").to(self.gru.weight_ih.dtype)
        updated: Tensor = self.gru(updates.flatten(0, 1), slots.flatten(0, 1).to(updates.dtype)).view_as(updates)
        return updated + self.mlp(self.norm_mlp(updated))  # type: ignore[no-any-return]

    def aggregate(self, attention: Tensor, values: Tensor) -> Tensor:
        """Aggregate values `(B, heads, N, d)` by attention `(B, heads, K, N)` to `(B, heads, K, d)`."""
        if values.dtype == torch.float16:
            values = values.float()  # a sum over thousands of inputs would overflow
        if self.aggregation == "mean":
            weights = attention + self.epsilon
            return (weights.to(values.dtype) @ values) / weights.sum(-1, keepdim=True)
        total = attention.to(values.dtype) @ values
        total = total.to(torch.promote_types(total.dtype, attention.dtype))  # float32 at least
        if self.norm_updates is None:
            return total / attention.shape[-1]
        rows: Tensor = self.norm_updates(rearrange(total, "b h k d -> (b k) (h d)"))
        return rearrange(rows, "(b k) (h d) -> b h k d", b=len(total), h=self.num_heads)
