"""Adam that keeps its moments in bfloat16, for models whose weights fill the memory."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from audiocodec.optim.scaled import Flags, ScaledOptimizer, adam_step

_MOMENTS = ('mean', 'square')
_HIGHEST_BETA = 0.99  # above it, most steps of an average are less than half a unit of bfloat16
_CHUNK = 2**22  # elements whose moments are in float32 at once


class Bfloat16Adam(ScaledOptimizer):
    """Adam with both moments rounded to bfloat16 between steps: 4 bytes per weight instead of 8.

    A step is computed in float32, chunk by chunk. bfloat16 has 8 bits of mantissa, so that an
    average that would move by less than 0.2 to 0.4 % of itself stays where it is. With a constant
    gradient, steps are therefore too long, by up to 2 % with betas of 0.5 and 0.9, and 17 % with
    0.9 and 0.99; the noise of a gradient averages this out.

    Args:
        params: parameters, float32, or parameter groups.
        lr: learning rate.
        betas: decay of the averages of the gradient and of its square, at most 0.99.
        eps: added to the denominator.
        weight_decay: added to the gradient, as by `torch.optim.Adam`.

    Raises:
        ValueError: for a decay that bfloat16 cannot hold, or parameters that are not float32.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {'lr': lr, 'betas': betas, 'eps': eps, 'weight_decay': weight_decay}
        )

    def check(self, parameters: list[torch.Tensor], options: dict[str, Any]) -> None:
        """Refuse parameters and options that the optimizer cannot use with a `ValueError`."""
        super().check(parameters, options)
        betas = options['betas']
        if not all(0 <= beta <= _HIGHEST_BETA for beta in betas):
            raise ValueError(
                f'betas={list(betas)}: expected decays from 0 to {_HIGHEST_BETA}, since an average '
                'in bfloat16 does not follow slower ones; use torch.optim.Adam for them'
            )
        types = {parameter.dtype for parameter in parameters}
        if types - {torch.float32}:
            raise ValueError(
                f'parameters of {", ".join(sorted(map(str, types)))}: expected torch.float32 alone'
            )

    def state_names(self, group: dict[str, Any]) -> set[str]:
        """Return what the state of each parameter of a group consists of."""
        return {*_MOMENTS, 'step'}

    def update(self, parameters: list[torch.Tensor], group: dict[str, Any], flags: Flags) -> None:
        """Update parameters of a group, chunk by chunk."""
        for chunk in _chunks(parameters):
            self._update(chunk, group, flags)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; moments are in bfloat16 again, to which PyTorch does not keep them."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name in _MOMENTS:
                state[name] = state[name].bfloat16()

    def _update(self, parameters: list[torch.Tensor], group: dict[str, Any], flags: Flags) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    **{
                        name: torch.zeros_like(parameter, dtype=torch.bfloat16) for name in _MOMENTS
                    },
                    'step': torch.zeros((), device=parameter.device),
                }
        states = [self.state[parameter] for parameter in parameters]
        means, squares = ([state[name].float() for state in states] for name in _MOMENTS)
        steps = [state['step'] for state in states]
        adam_step(parameters, means, squares, steps, group, flags, group['weight_decay'])
        for name, moments in zip(_MOMENTS, (means, squares)):
            torch._foreach_copy_([state[name] for state in states], moments)


def _chunks(parameters: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield the parameters in turn, in lists of at most `_CHUNK` elements or one parameter."""
    chunk: list[torch.Tensor] = []
    size = 0
    for parameter in parameters:
        if chunk and size + parameter.numel() > _CHUNK:
            yield chunk
            chunk, size = [], 0
        chunk.append(parameter)
        size += parameter.numel()
    if chunk:
        yield chunk
