"""Visual concept library: clusters of the slots of many images, to compose new scenes from."""

from __future__ import annotations

import torch
from torch import Tensor

from object_discovery.layers.compositing import active_mask
from object_discovery.layers.kmeans import kmeans


class ConceptLibrary:
    """Slots of many images, clustered into concepts such as floors, walls and kinds of objects.

    Args:
        slots: Slots of any number of images, `(B, K, D)`; inactive slots (zero vectors) are dropped.
        num_concepts: Number of clusters, C, at most the number M of active slots.

    Attributes:
        slots: The M active slots, `(M, D)`.
        concepts: The concept of each, `(M,)`, int64 in [0, C).

    Raises:
        ValueError: If there are fewer slots than concepts, or no concepts.

    Reference:
        Singh, Deng and Ahn 2022, section 5.2.

    Example:
        >>> library = ConceptLibrary(torch.randn(100, 3, 8), num_concepts=4)
        >>> library.sample(num_scenes=5, concepts=[0, 1, 1]).shape  # for SLATE.compose
        torch.Size([5, 3, 8])
    """

    def __init__(self, slots: Tensor, num_concepts: int) -> None:
        rows = slots.detach().flatten(0, 1)
        self.slots = rows[active_mask(rows)]
        if not 1 <= num_concepts <= len(self.slots):
            raise ValueError(
                f"Expected argument `num_concepts` to be from 1 to the number of slots {len(self.slots)}, "
                f"but got {num_concepts}"
            )
        self.num_concepts = num_concepts
        self.concepts = kmeans(self.slots[None], num_concepts)[0][0]

    def members(self, concept: int) -> Tensor:
        """Return the slots of a concept, `(M, D)`.

        Raises:
            ValueError: If there is no such concept.
        """
        if not 0 <= concept < self.num_concepts:
            raise ValueError(f"Expected concepts to be from 0 to {self.num_concepts - 1}, but got {concept}")
        return self.slots[self.concepts == concept]

    def sample(self, num_scenes: int, concepts: list[int] | None = None) -> Tensor:
        """Compose scenes of randomly sampled slots.

        Args:
            num_scenes: B.
            concepts: The concept of each slot of a scene. None: each concept once, as in the paper.

        Returns:
            Slots, `(B, K, D)`, where K is the number of concepts of a scene.

        Raises:
            ValueError: If there is no such concept, or no slot of it.
        """
        samples = []
        for concept in range(self.num_concepts) if concepts is None else concepts:
            members = self.members(concept)
            if not len(members):
                raise ValueError(f"Expected concept {concept} to have slots, but it is empty: ask for fewer concepts")
            samples.append(members[torch.randint(len(members), (num_scenes,), device=members.device)])
        return torch.stack(samples, 1)
