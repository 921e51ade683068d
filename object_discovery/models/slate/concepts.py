"""Visual concepts: clusters of slots of many images, from which new scenes are put together."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def kmeans(points: Tensor, num_clusters: int, *, num_iterations: int = 50) -> tuple[Tensor, Tensor]:
    """Cluster points by Lloyd's algorithm from centres chosen as k-means++ does.

    Args:
        points: `(M, D)`.
        num_clusters: C, at most M.
        num_iterations: The most iterations; it stops earlier once no point changes its cluster.

    Returns:
        Centres `(C, D)` and the cluster of each point `(M,)`, int64.

    Raises:
        ValueError: If there are fewer points than clusters, or no clusters.

    Reference:
        Arthur and Vassilvitskii, k-means++: The Advantages of Careful Seeding, 2007.

    Example:
        >>> centres, clusters = kmeans(torch.tensor([[0.0], [0.1], [9.0], [9.1]]), 2)
        >>> bool(clusters[0] == clusters[1] != clusters[2] == clusters[3])
        True
    """
    if not 1 <= num_clusters <= len(points):
        raise ValueError(
            f"Expected argument `num_clusters` to be from 1 to the number of points {len(points)}, "
            f"but got {num_clusters}"
        )
    centres = points[torch.randint(len(points), (1,), device=points.device)]
    while len(centres) < num_clusters:
        distance = torch.cdist(points, centres).amin(1).square() + 1e-12
        centres = torch.cat([centres, points[torch.multinomial(distance, 1)]])
    clusters = torch.cdist(points, centres).argmin(1)
    for _ in range(num_iterations):
        sums = torch.zeros_like(centres).index_add_(0, clusters, points)
        counts = clusters.bincount(minlength=num_clusters)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
        moved = torch.cdist(points, centres).argmin(1)
        if torch.equal(moved, clusters):
            break
        clusters = moved
    return centres, clusters


class ConceptLibrary:
    """Slots of many images, sorted into concepts such as floors, walls and objects of a kind.

    Args:
        slots: Slots of any number of images, `(B, K, D)`.
        num_concepts: Number of clusters, C.

    Attributes:
        slots: The slots one below the other, `(B * K, D)`.
        concepts: The concept of each, `(B * K,)`, int64 in [0, C).

    Raises:
        ValueError: If there are fewer slots than concepts.

    Reference:
        Singh, Deng and Ahn 2022, section 5.2.

    Example:
        >>> library = ConceptLibrary(torch.randn(100, 3, 8), num_concepts=4)
        >>> library.sample(num_scenes=5, concepts=[0, 1, 1]).shape  # SLATE.compose paints these
        torch.Size([5, 3, 8])
    """

    def __init__(self, slots: Tensor, num_concepts: int) -> None:
        self.slots = slots.detach().flatten(0, 1)
        self.num_concepts = num_concepts
        self.concepts = kmeans(self.slots, num_concepts)[1]

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
