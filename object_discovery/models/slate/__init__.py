"""SLATE: images become tokens, tokens slots, and a transformer writes the tokens again from the slots.

Reference:
    Singh, Deng and Ahn, Illiterate DALL-E Learns to Compose, ICLR 2022, arXiv 2110.11405.
"""

from object_discovery.models.slate.concepts import ConceptLibrary
from object_discovery.models.slate.model import SLATE

__all__ = ["SLATE", "ConceptLibrary"]
