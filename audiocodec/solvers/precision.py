"""How an update is computed, not what: its precision, cuDNN's choice of algorithms, compiled
modules.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from omegaconf import DictConfig
from torch import nn

from audiocodec.adversarial import AdversarialTrainer
from audiocodec.adversarial.discriminators import STFTDiscriminator
from audiocodec.models import CompressionModel
from audiocodec.utils.config import ConfigError

# Graphs that one function may be compiled to: a discriminator's sub-discriminators share their
# code, and each of them meets a batch twice as large in its own training, and audio with and
# without a gradient.
_GRAPHS = 128


def set_up(options: DictConfig, device: torch.device) -> None:
    """Says how this process computes in float32 on a GPU; on a CPU it changes nothing.

    Args:
        options: `conv` and `matmul`, each `tf32` or `float32`, and `cudnn_benchmark`.
        device: of the run.
    """
    if device.type != 'cuda':
        return
    with warnings.catch_warnings():  # PyTorch 2.9 to 2.11 announce other names for the first two
        warnings.simplefilter('ignore', UserWarning)
        torch.backends.cudnn.allow_tf32 = options.conv == 'tf32'
        torch.set_float32_matmul_precision('high' if options.matmul == 'tf32' else 'highest')
    torch.backends.cudnn.benchmark = options.cudnn_benchmark


def autocast(
    dtype: str | None, device: torch.device
) -> Callable[[], AbstractContextManager[object]]:
    """What model and discriminators run within; losses, quantizer, spectra and balancer leave it by
    themselves.

    bfloat16 has the range of float32, so that gradients need no scaling; float16 has not, and is
    not offered.

    Args:
        dtype: `bfloat16`; None: float32, or TF32 on a GPU (see `set_up`).
        device: where they run.

    Returns:
        A function that gives the context.

    Raises:
        ConfigError: a GPU without bfloat16.
    """
    if dtype is None:
        return nullcontext
    if device.type == 'cuda' and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f'precision.autocast={dtype}: {torch.cuda.get_device_name(device)} does not compute in '
            'bfloat16; use precision.autocast=null'
        )
    # Its cache of weights in half precision would outlive the discriminators' step, which changes
    # them.
    return lambda: torch.autocast(device.type, dtype=getattr(torch, dtype), cache_enabled=False)


def compile_parts(model: CompressionModel, adversaries: AdversarialTrainer) -> None:
    """Have encoder, decoder and sub-discriminators compiled when they are first run; names and
    states stay.

    Compiled code is for the shapes of training; everything else runs within `for_any_length`.
    """
    import torch._dynamo.config
    import torch._functorch.config

    torch._dynamo.config.recompile_limit = max(_GRAPHS, torch._dynamo.config.recompile_limit)
    # Two losses, adversarial and of the features, have their gradients through one graph, one after
    # the other.
    torch._functorch.config.donated_buffer = False
    # The compiler makes nothing of complex numbers. As an attribute of an instance, the function
    # would not pickle, and its copies would run on that instance.
    STFTDiscriminator.spectrum = torch.compiler.disable(STFTDiscriminator.spectrum)  # type: ignore[method-assign]
    parts = [getattr(model, name, None) for name in ('encoder', 'decoder')]
    for discriminator in adversaries.discriminators.values():
        parts += getattr(discriminator, 'discriminators', [discriminator])
    # Before PyTorch 2.11, the backward of weight norm refuses the layout that the compiler gives to
    # weights.
    options = {'layout_optimization': False} if torch.__version__ < '2.11' else None
    for part in parts:
        if isinstance(part, nn.Module):
            part.compile(dynamic=False, options=options)


@contextmanager
def for_any_length() -> Iterator[None]:
    """Within it, nothing is compiled and no algorithm is tried: audio of any length comes by, and
    each would be new.
    """
    was, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        with torch.compiler.set_stance('force_eager'):
            yield
    finally:
        torch.backends.cudnn.benchmark = was
