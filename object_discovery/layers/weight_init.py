"""Weight initialisation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn

from object_discovery.layers.slot_attention import SlotAttention


def keras_init(module: nn.Module) -> None:
    """Initialise weights as Keras does by default; for use with `Module.apply`.

    Linear layers and convolutions: Glorot uniform, bias 0. GRU cells: Glorot uniform for the inputs, orthogonal for
    the state, biases 0. Other modules are left as they are.

    Example:
        >>> layer = nn.Linear(4, 8).apply(keras_init)
        >>> bool(layer.bias.any())
        False
    """
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.GRUCell):
        nn.init.xavier_uniform_(module.weight_ih)
        nn.init.orthogonal_(module.weight_hh)
        nn.init.zeros_(module.bias_ih)
        nn.init.zeros_(module.bias_hh)


def init_weights(
    kind: Literal["torch", "keras", "kmeans"], parts: Iterable[nn.Module | None], slot_attention: SlotAttention
) -> None:
    """Initialise the weights of a model.

    Args:
        kind: `torch`: keep the initialisation of PyTorch. `keras`: `keras_init`. `kmeans`: `keras_init`, and Slot
            Attention as soft k-means, see `SlotAttention.init_as_kmeans`.
        parts: Modules to initialise, in this order, Slot Attention among them; None is skipped.
        slot_attention: The Slot Attention of the model.

    Example:
        >>> core = SlotAttention(3, 8, 8)
        >>> init_weights("kmeans", [core], core)
        >>> bool(core.to_query.weight.diagonal().eq(1).all())
        True
    """
    if kind != "torch":
        for part in parts:
            if part is not None:
                part.apply(keras_init)
    if kind == "kmeans":
        slot_attention.init_as_kmeans()
