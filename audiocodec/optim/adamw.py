"""AdamW with a weight decay for matrices only."""

from collections.abc import Iterable
from typing import Any

import torch

from audiocodec.optim.groups import split_group


class MatrixDecayAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` that decays matrices only, such as the weights of a transformer.

    Weights of convolutions, biases, scales and norms are not decayed: Mimi decays only its
    transformers (arXiv 2410.00037, section 4.2).

    Args:
        params: parameters, or parameter groups.
        lr: learning rate.
        betas: decay of the averages of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: of parameters with two dimensions; that of the others is 0.
        fused: whether one kernel updates all parameters.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the matrices of a parameter group, and its other parameters, as a group each."""
        decay = param_group.get('weight_decay', self.defaults['weight_decay'])
        if not decay:
            super().add_param_group(param_group)
            return
        for has_none, group in split_group(param_group, lambda p: p.dim() != 2):
            super().add_param_group({**group, 'weight_decay': 0.0 if has_none else decay})
