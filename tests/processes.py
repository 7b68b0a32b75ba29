"""Several processes on one machine, joined over gloo as `torchrun` joins them, without its start-up time."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

from llmrec.distributed import leave_processes

JOINED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run_processes(count: int, target: Callable[..., None], *arguments: Any) -> list[int | None]:
    """Runs `target(*arguments)` in joined processes, or in a single one without a launcher; returns the exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([target.__module__])
    port = free_port()
    processes = [context.Process(target=_joined, args=(rank, count, port, target, arguments)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _joined(rank: int, count: int, port: int, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    if count > 1:
        values = (rank, rank, count, "127.0.0.1", port, "true")
        os.environ |= {name: str(value) for name, value in zip(JOINED, values, strict=True)}
    target(*arguments)
    leave_processes()
