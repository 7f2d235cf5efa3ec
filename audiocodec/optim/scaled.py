"""Base of the optimizers here: closures, skipped steps and scaled gradients."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim.adam import adam

from audiocodec.optim.groups import check_options, listed

Flags = dict[str, torch.Tensor | None]
# Names in states of earlier versions. PyTorch converts all but `step` to the type of the weights.
_OLD_NAMES = {'steps': 'step'}


class ScaledOptimizer(torch.optim.Optimizer):
    """Optimizer that heeds the flags of `step_if` and `torch.amp.GradScaler`, on the device.

    A subclass passes both to `adam_step`, or heeds them itself: with a true `found_inf`, parameters
    and averages stay as they are, and gradients are divided by `grad_scale`.

    Raises:
        ValueError: an option out of range, complex parameters, or the state of another optimizer.
    """

    _step_supports_amp_scaling = True  # the host reads neither flag

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        flags = {name: getattr(self, name, None) for name in ('found_inf', 'grad_scale')}
        for group in self.param_groups:
            self.update([p for p in group['params'] if p.grad is not None], group, flags)
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, see `torch.optim.Optimizer`."""
        group, parameters = listed(param_group)
        self.check(parameters, {**self.defaults, **group})
        super().add_param_group(group)

    def check(self, parameters: list[torch.Tensor], options: dict[str, Any]) -> None:
        """Refuse parameters and options that the optimizer cannot use with a `ValueError`."""
        check_options(options)
        if any(parameter.is_complex() for parameter in parameters):
            raise ValueError(f'{type(self).__name__} takes no complex parameters')

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, see `torch.optim.Optimizer`; nothing changes if it does not fit."""
        states = {
            index: {_OLD_NAMES.get(name, name): value for name, value in state.items()}
            for index, state in state_dict['state'].items()
        }
        for group, saved in zip(self.param_groups, state_dict['param_groups']):
            expected = self.state_names(group)
            for found in (states[index].keys() for index in saved['params'] if index in states):
                if found != expected:
                    raise ValueError(
                        f'{type(self).__name__} keeps {sorted(expected)} of these parameters, and '
                        f'the state has {sorted(found)}: it is of another optimizer or model'
                    )
        super().load_state_dict({**state_dict, 'state': states})
        for parameter, state in self.state.items():
            if 'step' in state:  # which PyTorch leaves as it is, also on another device
                state['step'] = state['step'].to(parameter.device)

    @abstractmethod
    def state_names(self, group: dict[str, Any]) -> set[str]:
        """Return what the state of each parameter of a group consists of."""

    @abstractmethod
    def update(self, parameters: list[torch.Tensor], group: dict[str, Any], flags: Flags) -> None:
        """Update parameters of a group, all of which have a gradient."""


def adam_step(
    parameters: list[torch.Tensor],
    means: list[torch.Tensor],
    squares: list[torch.Tensor],
    steps: Sequence[torch.Tensor],
    group: dict[str, Any],
    flags: Flags,
    weight_decay: float = 0.0,
) -> None:
    """Take a step of Adam by PyTorch's fused kernel, with `lr`, `betas`, `eps` of a group."""
    first, second = group['betas']
    adam(
        parameters,
        [p.grad for p in parameters if p.grad is not None],
        means,
        squares,
        [],
        list(steps),
        fused=True,
        grad_scale=flags['grad_scale'],
        found_inf=flags['found_inf'],
        amsgrad=False,
        beta1=first,
        beta2=second,
        lr=group['lr'],
        weight_decay=weight_decay,
        eps=group['eps'],
        maximize=False,
    )
