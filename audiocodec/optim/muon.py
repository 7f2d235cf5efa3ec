"""Muon: kernels of convolutions take orthogonal steps, biases and scales those of Adam."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from audiocodec.optim.groups import split_group
from audiocodec.optim.scaled import Flags, ScaledOptimizer, adam_step

# Of the quintic iteration of Jordan et al. (kellerjordan.github.io/posts/muon, 2024): they maximize
# the slope at 0, and take singular values to between 0.68 and 1.13 in five steps.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_LONG = 3  # columns per row from which on `_iterated_on_squares` is faster


class Muon(ScaledOptimizer):
    """Muon for matrices and the kernels of convolutions, Adam for biases, scales and norms.

    The averaged gradient of a matrix is replaced by the nearest orthogonal matrix: all its
    directions are learned at the same speed (Jordan et al., 2024). A kernel [O, I, K] is the matrix
    [O, I * K]. Steps have the root mean square that is usual with Adam (arXiv 2502.16982, section
    2.2), so that both kinds of parameters share one learning rate. `torch.optim.Muon` (PyTorch 2.9
    and later) takes matrices only.

    Args:
        params: parameters, or parameter groups.
        lr: learning rate.
        momentum: decay of the average of a matrix's gradient (Nesterov's).
        betas: of Adam: decay of the averages of the gradient and of its square.
        eps: of Adam: added to the denominator.
        weight_decay: decoupled; of matrices only.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            {
                'lr': lr,
                'momentum': momentum,
                'betas': betas,
                'eps': eps,
                'weight_decay': weight_decay,
            },
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the matrices of a parameter group, and its other parameters, as a group each."""
        for orthogonal, group in split_group(param_group, _is_matrix):
            super().add_param_group({**group, 'orthogonal': orthogonal})

    def state_names(self, group: dict[str, Any]) -> set[str]:
        """Return what the state of each parameter of a group consists of."""
        return {'momentum'} if group['orthogonal'] else {'mean', 'square', 'step'}

    def update(self, parameters: list[torch.Tensor], group: dict[str, Any], flags: Flags) -> None:
        """Update parameters of a group: matrices, or biases and scales."""
        if not group['orthogonal']:
            self._update_vectors(parameters, group, flags)
            return
        for parameter in parameters:
            self._update_matrix(parameter, group, **flags)

    def _update_matrix(
        self,
        parameter: torch.Tensor,
        group: dict[str, Any],
        found_inf: torch.Tensor | None,
        grad_scale: torch.Tensor | None,
    ) -> None:
        gradient, taken = parameter.grad, torch.ones((), device=parameter.device)
        assert gradient is not None
        if grad_scale is not None:
            gradient = gradient / grad_scale.to(parameter.device)
        if found_inf is not None:  # on the device, 1 or 0
            taken = 1 - found_inf.to(parameter.device)
            gradient = torch.where(taken > 0, gradient, 0.0)
        state = self.state[parameter]
        if not state:
            state['momentum'] = torch.zeros_like(parameter)
        average = state['momentum'].lerp_(gradient, taken * (1 - group['momentum']))
        ahead = gradient.lerp(average, group['momentum']).flatten(1)
        size = 0.2 * max(ahead.shape) ** 0.5
        step = taken * group['lr']
        parameter.mul_(1 - step * group['weight_decay'])
        parameter.sub_(orthogonalized(ahead).view_as(parameter) * (step * size))

    def _update_vectors(
        self, parameters: list[torch.Tensor], group: dict[str, Any], flags: Flags
    ) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    'mean': torch.zeros_like(parameter),
                    'square': torch.zeros_like(parameter),
                    'step': torch.zeros((), device=parameter.device),
                }
        states = [self.state[parameter] for parameter in parameters]
        means, squares, steps = (
            [state[name] for state in states] for name in ('mean', 'square', 'step')
        )
        adam_step(parameters, means, squares, steps, group, flags)


def _is_matrix(parameter: torch.Tensor) -> bool:
    return parameter.numel() > max(parameter.shape, default=1)  # scales of weight norm: [O, 1, 1]


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """Return nearly U V^T of a matrix U S V^T: [R, C] to [R, C].

    The iteration runs in bfloat16 on a GPU, whose error is smaller than that of the five steps.
    """
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = x.T if is_tall else x
    x = x / (torch.linalg.matrix_norm(x) + 1e-12)
    # Squared singular values have twice the digits, too many for bfloat16.
    is_long = x.shape[1] >= _LONG * x.shape[0] and x.dtype != torch.bfloat16
    x = _iterated_on_squares(x) if is_long else _iterated(x)
    return (x.T if is_tall else x).to(matrix.dtype)


def _iterated(x: torch.Tensor) -> torch.Tensor:
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterated_on_squares(x: torch.Tensor) -> torch.Tensor:
    """Compute `_iterated` with two products of the long side instead of ten.

    Every step multiplies x by a polynomial of x x^T. All of these commute, so that x x^T and the
    product of the polynomials can be iterated without x.
    """
    a, b, c = _QUINTIC
    gram = x @ x.T
    identity = torch.eye(len(gram), dtype=x.dtype, device=x.device)
    product = identity
    for step in range(_ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c).add_(identity, alpha=a)
        product = factor @ product if step else factor
        if step < _ITERATIONS - 1:
            gram = factor @ gram @ factor
    return product @ x
