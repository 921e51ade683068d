"""Run a function in two processes of a distributed job."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def run_in_two_processes(function: Callable[[int], Any], folder: Path) -> list[Any]:
    """Call a function with the rank of each process, this one and a new one, and return both results.

    Args:
        function: A function of a module; its result can be saved by torch.
        folder: Folder for temporary files.
    """
    other = spawn(_run, (function, str(folder)), nprocs=1, join=False)  # type: ignore[no-untyped-call]
    _run(1, function, str(folder))
    while not other.join():
        pass
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def _run(rank: int, function: Callable[[int], Any], folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(function(rank), f"{folder}/{rank}.pt")
    dist.barrier()  # torch 2.6 may wait forever where a group ends right after a collective with tensors
    dist.destroy_process_group()
