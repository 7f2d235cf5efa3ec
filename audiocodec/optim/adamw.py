"""AdamW with a weight decay for matrices only."""

from collections.abc import Iterable

import torch


class MatrixDecayAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` that decays matrices only, such as the weights of a transformer.

    Weights of convolutions, biases, scales and norms are not decayed: Mimi decays only its
    transformers (arXiv 2410.00037, section 4.2).

    Args:
        params: parameters.
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
        groups: dict[float, list[torch.nn.Parameter]] = {0.0: [], weight_decay: []}
        for parameter in params:
            groups[weight_decay if parameter.dim() == 2 else 0.0].append(parameter)
        super().__init__(
            [
                {'params': members, 'weight_decay': decay}
                for decay, members in groups.items()
                if members
            ],
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            fused=fused,
        )
