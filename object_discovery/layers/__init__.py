"""Neural network modules that models share."""

from object_discovery.layers.decoder import BroadcastDecoder
from object_discovery.layers.encoder import ConvEncoder
from object_discovery.layers.position import PositionEmbedding
from object_discovery.layers.regularizers import SlotRegularizer
from object_discovery.layers.slot_attention import SlotAttention

__all__ = ["BroadcastDecoder", "ConvEncoder", "PositionEmbedding", "SlotAttention", "SlotRegularizer"]
