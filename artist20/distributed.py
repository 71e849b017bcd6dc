"""Several processes that work as one, as torchrun starts them: who does what, what all know.

A process that torchrun did not start is alone: it is the main one, and everything here is a
plain call. Folders are shared: on several machines, by a file system that all of them see.
"""

import gc
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from artist20 import UserError

# A process that dies is noticed at once; this is how long one may decode while others wait.
TIMEOUT = timedelta(days=2)


def start(device: torch.device) -> torch.device:
    """Join the other processes, if torchrun started this one; return the device to compute on."""
    if "RANK" not in os.environ or dist.is_initialized():
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise UserError(
                f"torchrun started {os.environ['LOCAL_WORLD_SIZE']} processes for "
                f"{torch.cuda.device_count()} GPUs: --nproc-per-node must be that many at most"
            )
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    if is_main():
        print(f"{world_size()} process{'es' if world_size() > 1 else ''}")
    else:  # it falls silent
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - until the process ends
    return device


def leave() -> None:
    """Leave the other processes, before this one ends.

    A thread of gloo may still hold the last operation's tensors when the operation is done. Should
    it let go of them while Python is torn down, the process aborts, after all its work. Its threads
    end when the last reference to the group is dropped.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()  # the last to hold it are a distributed network's cycles


def other_is_gone(error: RuntimeError) -> bool:
    """Return whether an error says that another process is no longer there."""
    signs = ("closed by peer", "reset by peer", "NCCL", "Broken pipe", "gloo")
    return world_size() > 1 and any(sign in str(error) for sign in signs)


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Return whether this process is the one that writes and speaks."""
    return rank() == 0


def quiet() -> bool | None:
    """Return what tqdm's ``disable`` is to be: None lets the terminal decide."""
    return None if is_main() else True


def on_main(compute: Callable[[], Any]) -> Any:
    """Call a function in the main process alone; its result, UserError or OSError goes to all."""
    if world_size() == 1:
        return compute()
    result: list[Any] = [None, None]
    if is_main():
        try:
            result[0] = compute()
        except (UserError, OSError) as error:
            result[1] = error
    dist.broadcast_object_list(result, src=0, device=torch.device("cpu"))
    if result[1] is not None:
        raise result[1]
    return result[0]


def gather(value: Any) -> list[Any]:
    """Return every process's value, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)  # over gloo, also where GPUs compute
    return values


def any_of(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    if world_size() == 1:
        return flag
    flags = torch.tensor([int(flag)])
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


def total(value: Tensor) -> Tensor:
    """Return the sum over all processes."""
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def score_divided(n_songs: int, score: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Score songs, each in one of the processes: (n_songs, n_classes), in every process.

    ``score`` takes numbers of songs and returns their scores, (len(songs), n_classes).
    """
    mine = np.arange(rank(), n_songs, world_size())
    parts = gather((mine, score(mine)) if len(mine) else None)
    parts = [part for part in parts if part is not None]
    scores = np.empty((n_songs, parts[0][1].shape[1]), parts[0][1].dtype)
    for songs, of_songs in parts:
        scores[songs] = of_songs
    return scores


def share(n_examples: int) -> Tensor:
    """Choose this process's examples of a batch that all have: their numbers, perhaps none."""
    return torch.arange(rank(), n_examples, world_size())


def distribute(model: nn.Module) -> nn.Module:
    """Wrap a network so that gradients are averaged over the processes."""
    if world_size() == 1:
        return model
    device = next(model.parameters()).device
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Let batch normalisation see the whole batch, not a process's share of it."""
    if world_size() == 1:
        return model
    if next(model.parameters()).device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SyncBatchNorm2d
    return model


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over all processes' shares, for CPUs: torch's own is for GPUs alone."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, channels, height, width) by the statistics of all processes."""
        if not self.training:
            return super().forward(x)
        exact = x.float()
        n = total(torch.tensor(exact.numel() / exact.shape[1]))
        mean = all_reduce(exact.sum((0, 2, 3))) / n
        centred = exact - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased = variance * n / (n - 1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)
