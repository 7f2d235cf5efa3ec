"""Collectives over the workers of a run; no-ops (or the identity) with a single worker.

Two rules prevent deadlocks, and make several workers compute the same as one. Every worker makes
the same calls in the same order with the same shapes, whatever its data. And random decisions that
affect the computation come from `shared_generator`, whose draws depend on the seed and a counter,
never on the worker.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch
from torch import distributed

T = TypeVar('T')


def is_distributed() -> bool:
    """Return whether there is a process group with more than one worker."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def rank() -> int:
    """Return this worker's number, from 0; 0 with a single worker."""
    return distributed.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Return the number of workers; 1 without a process group."""
    return distributed.get_world_size() if is_distributed() else 1


def is_rank_zero() -> bool:
    """Return whether this worker writes the files and shows messages."""
    return rank() == 0


def barrier() -> None:
    """Wait for every worker."""
    if is_distributed():
        on_gpu = distributed.get_backend() == 'nccl'
        distributed.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)


def all_reduce_sum_(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its sum over the workers, in place, in one collective per dtype.

    Args:
        tensors: same shapes, dtypes and order on every worker.
    """
    if not is_distributed():
        return
    by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
        distributed.all_reduce(flat)
        for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group])):
            tensor.data.copy_(part.view_as(tensor))


def all_reduce_mean_(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each floating tensor by its mean over the workers; see `all_reduce_sum_`."""
    if not is_distributed():
        return
    group = list(tensors)
    all_reduce_sum_(group)
    for tensor in group:
        tensor.data.div_(world_size())


def average_gradients(
    parameters: Iterable[torch.nn.Parameter], beside: Iterable[torch.Tensor] = ()
) -> None:
    """Average the gradients over the workers, with missing ones as zero, to avoid deadlocks.

    Args:
        parameters: the same on every worker.
        beside: further tensors (without a graph) to average in the same collective.
    """
    if not is_distributed():
        return
    grads = list(beside)
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
    all_reduce_mean_(grads)


def broadcast_(tensors: Iterable[torch.Tensor], src: int = 0) -> None:
    """Broadcast the values of worker `src` to every worker, in place."""
    if is_distributed():
        for tensor in tensors:
            distributed.broadcast(tensor.data, src=src)


def all_gather_object(thing: T) -> list[T]:
    """Gather a small picklable object of each worker (sizes may differ), in order of rank."""
    if not is_distributed():
        return [thing]
    things: list[T] = [thing] * world_size()
    distributed.all_gather_object(things, thing)
    return things


def from_rank_zero(function: Callable[[], T]) -> T:
    """Call a function in worker 0 only; every worker returns its result, or raises its error.

    Args:
        function: a function whose result and errors can be pickled.
    """
    if not is_distributed():
        return function()
    outcome: list[Any] = [None, None]
    if is_rank_zero():
        try:
            outcome[0] = function()
        except Exception as error:  # raised below, by every worker
            outcome[1] = error
    distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return cast(T, outcome[0])


def shared_generator(*numbers: int) -> torch.Generator:
    """Return a CPU generator seeded only by numbers (seed, purpose, ...): equal on all workers.

    The numbers are mixed with splitmix64, so that neighboring seeds and counters give unrelated
    streams.
    """
    mask = (1 << 64) - 1
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number & mask)) * 0xBF58476D1CE4E5B9 & mask
        state ^= state >> 30
        state = (state + 0x9E3779B97F4A7C15) & mask
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
        state ^= state >> 31
    return torch.Generator().manual_seed(state & ((1 << 63) - 1))


def item_generators(
    items: int, device: torch.device, *numbers: int
) -> list[torch.Generator] | list[None]:
    """Return a generator on the device for each item of this worker's part of a batch.

    Seeded by numbers (seed, purpose, counter) and the number of the item in the global batch, which
    concatenates the parts by rank: N workers with B items draw like one with N x B. Nothing is read
    from or copied to the device.

    Args:
        items: number of items, the same on every worker.
        device: on which to draw; different devices draw different values.
        *numbers: see `shared_generator`.
    """
    if device.type == 'meta':  # has no values to draw
        return [None] * items
    first = rank() * items
    return [
        torch.Generator(device).manual_seed(shared_generator(*numbers, first + item).initial_seed())
        for item in range(items)
    ]
