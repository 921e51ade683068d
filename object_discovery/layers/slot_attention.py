"""Slot Attention: slots compete for the inputs and settle, one on each object.

The whole algorithm is in this file. `step` is one iteration of Locatello et al. (2020); `forward` repeats it and
decides through which of the iterations the gradient flows.

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

from object_discovery.layers.compositing import slot_softmax

Initialization = Literal["gaussian", "learned"]
Gradient = Literal["full", "implicit", "bilevel"]
Aggregation = Literal["mean", "sum", "batch"]


class SlotAttention(nn.Module):
    """Bind N inputs to K slots by iterated attention that is normalised over the slots.

    Letters used below: B images, N inputs, K slots, D slot size.

    Args:
        num_slots: K, unless a call says otherwise.
        slot_size: D.
        input_size: Size of an input vector. None: D.
        mlp_size: Hidden size of the residual MLP.
        num_iterations: T, unless a call says otherwise; at least 1.
        num_heads: Heads; the softmax runs over heads and slots together, as in SLATE [4]. Must divide D.
        slot_init: Initial slots. `gaussian` [1]: samples of one learned Gaussian, so that any number of slots can be
            asked for and slots are exchangeable. `learned` [3]: one learned query for each slot; at most
            `num_slots` slots; breaks the symmetry, which makes training quicker and steadier.
        gradient: `full` [1]: back-propagate through all T iterations. `implicit` [2]: run T iterations without a
            gradient, then `neumann_terms` more with one; memory does not grow with T, but a Gaussian start gets no
            gradient and stays as it was initialised. `bilevel` [3]: as `implicit`, with T iterations in all for one
            term, and the gradient at the settled slots is copied straight through to the start.
        neumann_terms: Terms of the series `(I - J)^-1 = I + J + J^2 + ...` that the implicit gradient keeps, J the
            Jacobian of an iteration at the fixed point. 1 is the first-order gradient of [2]. At the fixed point
            differentiating m more iterations gives exactly m terms, which is how it is done here.
        aggregation: How a slot sums up its inputs. `mean` [1]: weighted mean. `sum` [5]: weighted sum divided by N.
            `batch` [5]: batch normalisation of the weighted sum. The latter two keep the share of the image that
            a slot attends to, and carry over better to more slots than were trained.
        tolerance: In evaluation mode stop once no entry of the slots moves by more than this (costs a
            synchronisation with the device in each iteration). 0: always run T iterations.
        epsilon: Added to the attention before it is normalised over the inputs.
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
        slot_init: Initialization = "gaussian",
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
            if value < 1:
                raise ValueError(f"Expected argument `{name}` to be at least 1, but got {value}")
        for name, choice, choices in (
            ("slot_init", slot_init, get_args(Initialization)),
            ("gradient", gradient, get_args(Gradient)),
            ("aggregation", aggregation, get_args(Aggregation)),
        ):
            if choice not in choices:
                raise ValueError(f"Expected argument `{name}` to be one of {', '.join(choices)}, but got {choice!r}")
        if slot_size % num_heads:
            raise ValueError(f"Expected argument `num_heads` to divide slot_size {slot_size}, but got {num_heads}")
        self.num_slots, self.slot_size, self.num_heads = num_slots, slot_size, num_heads
        self.num_iterations, self.neumann_terms, self.tolerance = num_iterations, neumann_terms, tolerance
        self.slot_init, self.gradient, self.aggregation, self.epsilon = slot_init, gradient, aggregation, epsilon
        input_size = input_size or slot_size

        if slot_init == "gaussian":
            self.mu = nn.Parameter(torch.empty(1, 1, slot_size))
            self.log_sigma = nn.Parameter(torch.empty(1, 1, slot_size))
        else:
            self.queries = nn.Parameter(torch.empty(num_slots, slot_size))
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
        if gradient == "implicit":  # no gradient would reach the start; distributed training wants to know
            for start in (self.mu, self.log_sigma) if slot_init == "gaussian" else (self.queries,):
                start.requires_grad_(False)

    @torch.no_grad()
    def reset_slots(self, *, wide: bool = False) -> None:
        """Draw the parameters of the initial slots anew.

        Args:
            wide: Draw those of the Gaussian from N(0, 1), the mean, and U(0, 1), the logarithm of the deviation.
        """
        if wide and self.slot_init == "gaussian":
            nn.init.normal_(self.mu)
            nn.init.uniform_(self.log_sigma)
        elif self.slot_init == "gaussian":
            bound = math.sqrt(6 / (1 + self.slot_size))  # Glorot's, for one input and D outputs, as in the original
            nn.init.uniform_(self.mu, -bound, bound)
            nn.init.uniform_(self.log_sigma, -bound, bound)
        else:
            nn.init.xavier_uniform_(self.queries)

    @torch.no_grad()
    def start_as_kmeans(self, sharpness: float = 2.0) -> None:
        """Draw the weights such that the iterations begin as soft k-means on the inputs.

        Slot Attention generalises soft k-means [1]. Here queries, keys and values share one orthogonal projection, the
        GRU hands on what was gathered, and the residual MLP adds little, so that a slot is the mean of its inputs and
        attends to inputs like itself. Training starts from clusters instead of from chance.

        Args:
            sharpness: Factor on the keys; the inverse temperature of the clusters.
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
        self.gru.bias_ih[size : 2 * size] = -2  # the gate that keeps the old slot is nearly shut
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        last.weight *= 0.1

    def initial_slots(self, batch_size: int, num_slots: int | None = None, noise: float = 0.0) -> Tensor:
        """Make the slots that the first iteration starts from.

        Args:
            batch_size: B.
            num_slots: K; None: as constructed.
            noise: Scale of the noise on learned queries, relative to their value; [3] lowers it from 1 to 0 along a
                cosine over the first 30,000 steps of training.

        Returns:
            Slots, `(B, K, D)`.

        Raises:
            ValueError: If there are fewer than 1 slots, or more slots than learned queries.
        """
        num_slots = self.num_slots if num_slots is None else num_slots
        if num_slots < 1:
            raise ValueError(f"Expected argument `num_slots` to be at least 1, but got {num_slots}")
        if self.slot_init == "gaussian":
            sample = torch.randn(batch_size, num_slots, self.slot_size, device=self.mu.device, dtype=self.mu.dtype)
            return self.mu + self.log_sigma.exp() * sample
        if num_slots > self.num_slots:
            raise ValueError(
                f"Expected argument `num_slots` to be at most {self.num_slots}, the number of learned queries, "
                f"but got {num_slots}; use slot_init='gaussian' to choose the number freely"
            )
        slots = self.queries[:num_slots].expand(batch_size, -1, -1)
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
        """Find the slots of a batch.

        Args:
            inputs: Feature vectors with their positions already added, `(B, N, input_size)`.
            slots: Slots to start from, `(B, K, D)`. None: `initial_slots`.
            num_slots: K for this call. None: as constructed.
            num_iterations: T for this call. None: as constructed.
            noise: Scale of the noise on learned queries, see `initial_slots`.
            clusters: Shares of the inputs `(B, K, N)`, at least 0, from which the slots to start from are updated once
                before the first iteration, as if they were its attention [6]. A slot whose shares are all 0 is left
                out: it attends to nothing. At least one slot of each image must stay. None: no such update.

        Returns:
            The slots `(B, K, D)` and the attention of the last iteration `(B, K, N)`, float32, which sums to 1 over
            the slots (it is summed over heads, and taken before it is normalised over the inputs). Both are 0 for
            slots that are left out.

        Raises:
            ValueError: If there are fewer than 1 iterations, or too many slots (`initial_slots`).
        """
        iterations = self.num_iterations if num_iterations is None else num_iterations
        if iterations < 1:
            raise ValueError(f"Expected argument `num_iterations` to be at least 1, but got {iterations}")
        start = self.initial_slots(len(inputs), num_slots, noise) if slots is None else slots
        keys, values = self.project(inputs)
        if clusters is None:
            return self.settle(start, keys, values, iterations)
        shares = clusters[:, None].expand(-1, self.num_heads, -1, -1)
        start = self.update(start, self.aggregate(shares, values))
        present = clusters.amax(2) > 0
        slots, attention = self.settle(start, keys, values, iterations, present)
        return slots * present[..., None], attention

    def settle(
        self, start: Tensor, keys: Tensor, values: Tensor, iterations: int, present: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Iterate from slots `(B, K, D)`, with the gradient that was chosen; for the other arguments see `step`."""
        if self.gradient == "full":
            return self.iterate(start, keys, values, iterations, present)
        free = iterations if self.gradient == "implicit" else iterations - 1
        settled = start.detach()
        if free:
            # Autocast caches the bfloat16 copies of weights; copies made under no_grad would later block gradients.
            kind = keys.device.type
            cast = torch.autocast(kind, enabled=torch.is_autocast_enabled(kind), cache_enabled=False)
            with torch.no_grad(), cast:
                settled, _ = self.iterate(settled, keys, values, free, present)
        if self.gradient == "bilevel":
            settled = settled + (start - start.detach())  # the value of the settled slots, the gradient of the start
        return self.iterate(settled, keys, values, self.neumann_terms, present)

    def project(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Turn inputs `(B, N, input_size)` into keys and values, both `(B, heads, N, D / heads)`."""
        inputs = self.norm_inputs(inputs)
        keys = rearrange(self.to_key(inputs), "b n (h d) -> b h n d", h=self.num_heads)
        values = rearrange(self.to_value(inputs), "b n (h d) -> b h n d", h=self.num_heads)
        return keys * (self.slot_size // self.num_heads) ** -0.5, values

    def iterate(
        self, slots: Tensor, keys: Tensor, values: Tensor, iterations: int, present: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Repeat `step`; in evaluation mode stop early where the slots have settled to within `tolerance`."""
        for _ in range(iterations):
            previous = slots
            slots, attention = self.step(slots, keys, values, present)
            if self.tolerance and not self.training and (slots - previous).abs().max() <= self.tolerance:
                break
        return slots, attention

    def step(self, slots: Tensor, keys: Tensor, values: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Do one iteration: the map whose fixed point the slots are.

        Args:
            slots: `(B, K, D)`.
            keys: Scaled keys, `(B, heads, N, D / heads)`.
            values: `(B, heads, N, D / heads)`.
            present: Which slots compete, `(B, K)`, bool. None: all.

        Returns:
            The next slots `(B, K, D)` and the attention `(B, K, N)`.
        """
        queries = rearrange(self.to_query(self.norm_slots(slots)), "b k (h d) -> b h k d", h=self.num_heads)
        logits = queries @ keys.transpose(-1, -2)  # (B, heads, K, N)
        # Slots, not inputs, share out each input; in float32, since sums over thousands of inputs follow.
        competing = None if present is None else present.repeat(1, self.num_heads)[..., None]
        attention = slot_softmax(logits.flatten(1, 2), 1, competing).view(logits.shape)
        return self.update(slots, self.aggregate(attention, values)), attention.sum(1)

    def update(self, slots: Tensor, updates: Tensor) -> Tensor:
        """Bring what slots `(B, K, D)` have gathered, `(B, heads, K, D / heads)`, into them."""
        updates = rearrange(updates, "b h k d -> b k (h d)").to(self.gru.weight_ih.dtype)
        updated: Tensor = self.gru(updates.flatten(0, 1), slots.flatten(0, 1).to(updates.dtype)).view_as(updates)
        return updated + self.mlp(self.norm_mlp(updated))  # type: ignore[no-any-return]

    def aggregate(self, attention: Tensor, values: Tensor) -> Tensor:
        """Sum up the values `(B, heads, N, d)` that each slot attends to, into `(B, heads, K, d)`."""
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
