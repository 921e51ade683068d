"""Visual concepts: clusters of slots of many images, from which new scenes are put together."""

from __future__ import annotations

import torch
from torch import Tensor

from object_discovery.layers.compositing import active_mask
from object_discovery.layers.kmeans import kmeans


class ConceptLibrary:
    """Slots of many images, sorted into concepts such as floors, walls and objects of a kind.

    Args:
        slots: Slots of any number of images, `(B, K, D)`; those that are all 0 were left out and are no part of it.
        num_concepts: Number of clusters, C, at most M.

    Attributes:
        slots: The M slots one below the other, `(M, D)`, where M is B * K less those left out.
        concepts: The concept of each, `(M,)`, int64 in [0, C).

    Raises:
        ValueError: If there are fewer slots than concepts, or no concepts.

    Reference:
        Singh, Deng and Ahn 2022, section 5.2.

    Example:
        >>> library = ConceptLibrary(torch.randn(100, 3, 8), num_concepts=4)
        >>> library.sample(num_scenes=5, concepts=[0, 1, 1]).shape  # SLATE.compose paints these
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
        """Put scenes together of slots drawn at random.

        Args:
            num_scenes: B.
            concepts: The concept of each slot of a scene. None: each concept once, as in the paper.

        Returns:
            Slots, `(B, K, D)` with K the number of concepts asked for.

        Raises:
            ValueError: If there is no such concept, or no slot of it.
        """
        drawn = []
        for concept in range(self.num_concepts) if concepts is None else concepts:
            members = self.members(concept)
            if not len(members):
                raise ValueError(f"Expected concept {concept} to have slots, but it is empty: ask for fewer concepts")
            drawn.append(members[torch.randint(len(members), (num_scenes,), device=members.device)])
        return torch.stack(drawn, 1)
