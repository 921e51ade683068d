"""Train and score on two processes with gloo; started by test_base.py, since it forks.

usage: python -m tests.models.two_processes OUT
"""

import sys
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy

from object_discovery.models import ObjectDiscoveryModel
from tests.models.tiny import make_data, make_model, make_trainer


def train_and_score(out: str, devices: int, batch_size: int) -> None:
    """Train for a few steps, then save the weights and the scores of validation and test."""
    torch.set_num_threads(1)
    model: ObjectDiscoveryModel[Any] = make_model("sa", lr=1e-4, clip_norm=0.1, lr_schedule="constant")
    strategy = DDPStrategy(process_group_backend="gloo", start_method="fork") if devices > 1 else "auto"
    data = make_data(batch_size=batch_size, train_size=16, val_size=7, test_size=5)
    trainer: Trainer = make_trainer(3, devices=devices, strategy=strategy, use_distributed_sampler=True)
    trainer.fit(model, data)
    scores = {name: value.cpu() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    trainer.test(model, data, verbose=False)
    scores |= {name: value.cpu() for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
    if trainer.is_global_zero:
        torch.save({"weights": model.state_dict(), "scores": scores, "world": trainer.world_size}, out)


if __name__ == "__main__":
    train_and_score(sys.argv[1], devices=2, batch_size=4)
