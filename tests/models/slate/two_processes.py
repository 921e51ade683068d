"""Train in stages on two processes with gloo; started by test_model.py, since it forks.

usage: python -m tests.models.slate.two_processes OUT
"""

import sys
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from tests.models.tiny import make_data, make_model, make_trainer


class Weights(Callback):
    """Record the weights before the first step and after each; save them at the end."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.history: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.history.append({name: value.detach().clone() for name, value in pl_module.named_parameters()})

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.on_train_start(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        codebook = pl_module.get_parameter("dvae.to_logits.weight").detach()
        first_codebook = codebook.clone()
        torch.distributed.broadcast(first_codebook, 0)
        assert torch.equal(codebook, first_codebook), "the codebooks of the processes differ"
        if trainer.is_global_zero:
            torch.save(self.history, self.out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    strategy = DDPStrategy(process_group_backend="gloo", start_method="fork")
    model = make_model("slate", dvae_steps=2, lr_schedule="constant", warmup_steps=0)
    trainer = make_trainer(
        5, devices=2, strategy=strategy, callbacks=[Weights(sys.argv[1])], use_distributed_sampler=True
    )
    trainer.fit(model, make_data(batch_size=4, train_size=16, val_size=4, test_size=4))
