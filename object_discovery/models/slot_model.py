"""What the models with Slot Attention share: the core built from their hyperparameters, and `forward`."""

from __future__ import annotations

from typing import Generic, TypeVar

from torch import Tensor

from object_discovery.discovery import Discovery
from object_discovery.layers.slot_attention import SlotAttention
from object_discovery.models.base import ObjectDiscoveryModel
from object_discovery.params import SlotParams
from object_discovery.schedules import cosine_anneal

S = TypeVar("S", bound=SlotParams)


class SlotModel(ObjectDiscoveryModel[S], Generic[S]):
    """A model around one Slot Attention, `slot_attention`; subclasses build it and give `discover` and `losses`."""

    slot_attention: SlotAttention

    def forward(  # type: ignore[override]
        self,
        images: Tensor,
        slots: Tensor | None = None,
        *,
        num_slots: int | None = None,
        num_iterations: int | None = None,
    ) -> Discovery:
        """Find the objects in images.

        Args:
            images: `(B, 3, H, W)`, floats in [0, 1].
            slots: Slots to start from, `(B, K, D)`. None: the model's own.
            num_slots: K for this call. None: as trained; learned queries allow no more than were trained.
            num_iterations: Iterations for this call. None: as trained.

        Returns:
            Slots, masks and attention; and the reconstruction and what each slot paints, where the model has them.

        Raises:
            ValueError: If the images are not of the model's resolution, or `num_slots` is out of its range.
        """
        self.check_images(images)
        return self.discover(images, slots, num_slots, num_iterations)

    def discover(
        self,
        images: Tensor,
        slots: Tensor | None = None,
        num_slots: int | None = None,
        num_iterations: int | None = None,
    ) -> Discovery:
        """Do the work of `forward`, on images whose shape has been checked."""
        raise TypeError(f"{type(self).__name__} has no discover")

    def build_slot_attention(self, input_size: int) -> SlotAttention:
        """Build the core for inputs of a size, as the hyperparameters say."""
        p = self.params
        return SlotAttention(
            p.num_slots,
            p.slot_size,
            input_size,
            mlp_size=p.mlp_size,
            num_iterations=p.num_iterations,
            num_heads=p.num_heads,
            init=p.init,
            gradient=p.gradient,
            neumann_terms=p.neumann_terms,
            aggregation=p.aggregation,
            tolerance=p.tolerance,
            norm_eps=p.norm_eps,
        )

    def bind(
        self,
        features: Tensor,
        slots: Tensor | None = None,
        num_slots: int | None = None,
        num_iterations: int | None = None,
        clusters: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Find the slots of features `(B, N, F)`, in training with the noise on learned queries that is due.

        Returns:
            Slots `(B, K, D)` and attention `(B, K, N)`, see `SlotAttention.forward`.
        """
        steps = self.params.noise_steps
        noise = cosine_anneal(self.global_step, 1.0, 0.0, steps) if steps and self.training else 0.0
        return self.slot_attention(  # type: ignore[no-any-return]
            features, slots, num_slots=num_slots, num_iterations=num_iterations, noise=noise, clusters=clusters
        )
