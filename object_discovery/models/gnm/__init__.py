"""Generative Neurosymbolic Machines (GNM).

Reference:
    Jiang and Ahn, Generative Neurosymbolic Machines, NeurIPS 2020, arXiv 2010.12152.
"""

from object_discovery.models.gnm.decomposition import SceneDecomposition
from object_discovery.models.gnm.model import GNM

__all__ = ["GNM", "SceneDecomposition"]
