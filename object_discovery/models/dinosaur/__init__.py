"""DINOSAUR: slots of the features of a frozen network, which are decoded from them.

Reference:
    Seitzer et al., Bridging the Gap to Real-World Object-Centric Learning, ICLR 2023, arXiv 2209.14860.
"""

from object_discovery.models.dinosaur.model import DINOSAUR

__all__ = ["DINOSAUR"]
