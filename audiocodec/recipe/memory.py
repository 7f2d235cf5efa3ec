"""An estimate of the memory that training updates take, from the parts themselves and a run on a
moment of sound.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from audiocodec.adversarial import AdversarialTrainer
from audiocodec.adversarial.discriminators import MultiDiscriminator
from audiocodec.adversarial.evaluate import logits_of_pair
from audiocodec.models import CompressionModel

# Samples of the two runs that tell what a sample costs; a multi-scale STFT discriminator needs
# 2048.
SHORT, LONG = 4096, 8192


@dataclass(frozen=True)
class Memory:
    """Bytes on the device of one worker, beside what PyTorch itself takes.

    Attributes:
        weights: parameters and buffers (codebooks) of model and discriminators.
        gradients: of the parameters.
        moments: the state of the optimizers.
        averages: the averaged model.
        activations: the rest at the moment when most is held: what is kept for the backward pass,
            and temporaries.
    """

    weights: int
    gradients: int
    moments: int
    averages: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.moments + self.averages + self.activations


def estimate(
    model: CompressionModel,
    adversaries: AdversarialTrainer,
    losses: Mapping[str, nn.Module],
    factories: Mapping[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]],
    averaged: bool,
    batch_size: int,
    samples: int,
) -> Memory:
    """Estimate the memory of training.

    All but the activations follows from the parts. The activations are measured: an update, but for
    the optimizers, is run three times on little noise, with every tensor that comes and goes
    counted; what an item and a sample cost is proportional. Buffers that a library uses inside one
    operation do not show. Nothing is changed: copies are run.

    Args:
        model: the model.
        adversaries: its discriminators.
        losses: those that are trained.
        factories: of the optimizers of 'model' and 'adversaries', from parameters.
        averaged: whether a moving average of the model is kept.
        batch_size: items on one worker.
        samples: of an item.
    """
    parts: dict[str, nn.Module] = {'model': model, 'adversaries': adversaries}
    gradients = {name: _size(part.parameters()) for name, part in parts.items()}
    moments = sum(
        round(gradients[name] * _moments(factory))
        for name, factory in factories.items()
        if gradients[name]
    )
    floats = (value for value in model.state_dict().values() if value.is_floating_point())
    with torch.random.fork_rng(devices=[]):
        measured = _extrapolate(_Update(model, adversaries, losses), batch_size, samples)
    return Memory(
        weights=sum(_size([*part.parameters(), *part.buffers()]) for part in parts.values()),
        gradients=sum(gradients.values()),
        moments=moments,
        averages=_size(floats) if averaged else 0,
        activations=max(0, measured - sum(gradients.values())),
    )


def _size(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _moments(factory: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> float:
    """Size of an optimizer's state, in parameters."""
    parameter = nn.Parameter(torch.zeros(64, 64))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = factory([parameter])
    optimizer.step()
    state = [
        value for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor)
    ]
    return sum(value.numel() for value in state if value.dim() > 0) / parameter.numel()


def _extrapolate(update: '_Update', batch_size: int, samples: int) -> int:
    """The peak of an update on `batch_size` items of `samples`, from small ones: items x (samples x
    slope + constant).

    An item costs a constant too, of a size that depends on the lengths of windows. Two and three
    items are measured: of one alone, it may be another moment that takes most.
    """
    short = min(SHORT, samples)
    two, three = update.peak(2, short), update.peak(3, short)
    slope = (
        0.0
        if short == samples
        else (update.peak(2, min(LONG, samples)) - two) / (min(LONG, samples) - short) / 2
    )
    return round(two + (batch_size - 2) * (three - two) + batch_size * (samples - short) * slope)


class _Update:
    """An update as the solver makes it, up to the gradients, on copies of the parts."""

    def __init__(
        self,
        model: CompressionModel,
        adversaries: AdversarialTrainer,
        losses: Mapping[str, nn.Module],
    ) -> None:
        self.model = copy.deepcopy(model).eval()  # nothing is learnt from noise
        self.adversaries = copy.deepcopy(adversaries).eval()
        self.adversaries.start = self.adversaries.warmup = 0
        self.losses = losses

    def peak(self, batch_size: int, samples: int) -> int:
        """The most bytes held at once."""
        device = next(self.model.parameters()).device
        wav = 0.1 * torch.randn(batch_size, self.model.channels, samples).to(device)
        for parameter in (*self.model.parameters(), *self.adversaries.parameters()):
            parameter.grad = None
        with _Counting() as counting:
            counting.leave_out(
                module.state_dict(keep_vars=True).values()
                for module in (self.model, self.adversaries.discriminators, *self.losses.values())
            )
            self._run(wav)
        return counting.peak

    def _run(self, wav: torch.Tensor) -> None:
        out = self.model(wav)
        for discriminator in self.adversaries.discriminators.values():
            shared = not isinstance(discriminator, MultiDiscriminator)
            for of_fake, of_real in logits_of_pair(discriminator, out.wav.detach(), wav)[1]:
                (of_fake.mean() + of_real.mean()).backward(retain_graph=shared)
        losses = {
            **{name: loss(out.wav, wav) for name, loss in self.losses.items()},
            **self.adversaries.generator_losses(out.wav, wav),
        }
        total = torch.zeros_like(out.wav)
        for loss in losses.values():
            total = total + torch.autograd.grad(loss, out.wav, retain_graph=True)[0]
            loss.detach_()
        beside = [out.commitment_loss] if out.commitment_loss.requires_grad else []
        torch.autograd.backward([out.wav, *beside], [total, *map(torch.ones_like, beside)])


class _Counting(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is on and still there.

    Attributes:
        peak: the most there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._held = 0
        self._known: Any = WeakIdKeyDictionary()

    def leave_out(self, groups: Iterable[Iterable[torch.Tensor]]) -> None:
        """Do not count tensors that were there before."""
        for group in groups:
            for tensor in group:
                self._known[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known[storage] = True
        size = storage.nbytes()
        self._held += size
        self.peak = max(self.peak, self._held)
        weakref.finalize(storage, self._release, size).atexit = False

    def _release(self, size: int) -> None:
        self._held -= size
