"""DINOSAUR: Slot Attention on features of a frozen encoder, which are reconstructed from the slots.

Reference:
    Seitzer et al., Bridging the Gap to Real-World Object-Centric Learning, ICLR 2023, arXiv 2209.14860.
"""

from object_discovery.models.dinosaur.model import DINOSAUR

__all__ = ["DINOSAUR"]
