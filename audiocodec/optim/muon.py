"""Muon: matrices take orthogonal steps, everything else those of Adam."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

# Coefficients of the quintic iteration of Jordan et al. (kellerjordan.github.io/posts/muon, 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Muon for matrices and the kernels of convolutions, Adam for biases, scales and norms.

    The averaged gradient of a matrix is replaced by the nearest orthogonal matrix, so that all its
    directions are learned at the same speed (Jordan et al., 2024). A kernel [O, I, K] is a matrix
    [O, I * K]. Steps are scaled to the size of Adam's (arXiv 2502.16982, section 2.2), so that
    both take the same learning rates. `torch.optim.Muon` (PyTorch 2.9 and later) takes
    matrices only.

    Args:
        params: parameters.
        lr: learning rate.
        momentum: decay of the average of a matrix's gradient.
        betas: of Adam: decay of the averages of the gradient and of its square.
        eps: of Adam: added to the denominator.
        weight_decay: decoupled; of matrices only.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lr_ratio: float = 1.0,
    ) -> None:
        groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
        for parameter in params:
            groups[_is_matrix(parameter)].append(parameter)
        super().__init__(
            [
                {'params': m, 'orthogonal': kind, 'lr': lr * (1 if kind else lr_ratio)}
                for kind, m in groups.items()
                if m
            ],
            {
                'lr': lr,
                'momentum': momentum,
                'betas': betas,
                'eps': eps,
                'weight_decay': weight_decay,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group['params']:
                if parameter.grad is not None:
                    step = self._orthogonal if group['orthogonal'] else self._adam
                    step(parameter, parameter.grad, group)
        return loss

    def _orthogonal(
        self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]
    ) -> None:
        state = self.state[parameter]
        if not state:
            state['momentum'] = torch.zeros_like(gradient)
        average = state['momentum']
        average.lerp_(gradient, 1 - group['momentum'])
        update = orthogonalized(gradient.lerp(average, group['momentum']).flatten(1))
        parameter.mul_(1 - group['lr'] * group['weight_decay'])
        scale = 0.2 * max(update.shape) ** 0.5
        parameter.add_(update.view_as(parameter), alpha=-group['lr'] * scale)

    def _adam(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state['step'] = 0
            state['mean'] = torch.zeros_like(gradient)
            state['square'] = torch.zeros_like(gradient)
        state['step'] += 1
        first, second = group['betas']
        state['mean'].lerp_(gradient, 1 - first)
        state['square'].lerp_(gradient.square(), 1 - second)
        root = (state['square'] / (1 - second ** state['step'])).sqrt_().add_(group['eps'])
        parameter.addcdiv_(state['mean'], root, value=-group['lr'] / (1 - first ** state['step']))


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix with the same singular vectors, and singular values between 0.7 and 1.2."""
    x = matrix.bfloat16()
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).to(matrix.dtype)


def _is_matrix(parameter: torch.Tensor) -> bool:
    return parameter.dim() >= 2 and parameter.numel() > max(parameter.shape)
