"""The initial weights of the original TensorFlow models."""

from __future__ import annotations

from torch import nn


def keras_initialization(module: nn.Module) -> None:
    """Draw weights as Keras does by default: for use with `Module.apply`.

    Linear layers and convolutions: Glorot uniform, bias 0. GRU cells: Glorot uniform for the inputs, orthogonal for
    the state, biases 0. Other modules are left as they are.

    Example:
        >>> layer = nn.Linear(4, 8).apply(keras_initialization)
        >>> float(layer.bias.abs().sum())
        0.0
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
