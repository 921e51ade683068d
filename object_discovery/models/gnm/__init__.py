"""GNM, Generative Neurosymbolic Machines: scenes of symbols that one latent for the whole scene expects.

Reference:
    Jiang and Ahn, Generative Neurosymbolic Machines, NeurIPS 2020, arXiv 2010.12152.
"""

from object_discovery.models.gnm.model import GNM
from object_discovery.models.gnm.scene import Scene

__all__ = ["GNM", "Scene"]
