"""GNM, Generative Neurosymbolic Machines: scenes of symbols that one latent for the whole scene expects.

Reference:
    Jiang and Ahn, Generative Neurosymbolic Machines, NeurIPS 2020, arXiv 2010.12152.
"""

from object_discovery.models.gnm.decomposition import Scene
from object_discovery.models.gnm.model import GNM

__all__ = ["GNM", "Scene"]
