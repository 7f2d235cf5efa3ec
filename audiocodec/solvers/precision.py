"""How an update is computed, not what: lower precision by autocast, compiled modules."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from audiocodec.adversarial import AdversarialTrainer
from audiocodec.adversarial.discriminators import STFTDiscriminator
from audiocodec.models import CompressionModel
from audiocodec.utils.config import ConfigError

AUTOCAST = (None, 'bfloat16')

# Graphs that one function may be compiled to: a discriminator's sub-discriminators share their code, and each of them
# meets a batch twice as large in its own training, and audio with and without a gradient.
_GRAPHS = 128


def autocast(dtype: str | None, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """What model and discriminators run within; losses, quantizer, spectra and balancer leave it by themselves.

    bfloat16 has the range of float32, so that gradients need no scaling; float16 has not, and is not offered.

    Args:
        dtype: one of `AUTOCAST`; None: float32, or TF32 where PyTorch is told to.
        device: where they run.

    Returns:
        A function that gives the context.

    Raises:
        ConfigError: a GPU without bfloat16.
    """
    if dtype is None:
        return nullcontext
    if device.type == 'cuda' and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f'autocast={dtype}: {torch.cuda.get_device_name(device)} does not compute in bfloat16; use '
                          'autocast=null')
    return lambda: torch.autocast(device.type, dtype=getattr(torch, dtype))


def compile_parts(model: CompressionModel, adversaries: AdversarialTrainer) -> None:
    """Have encoder, decoder and sub-discriminators compiled when they are first run; names and states stay.

    Compiled code is for the shapes of training; everything else runs within `uncompiled`.
    """
    import torch._dynamo.config
    import torch._functorch.config

    torch._dynamo.config.recompile_limit = max(_GRAPHS, torch._dynamo.config.recompile_limit)
    # Two losses, adversarial and of the features, have their gradients through one graph, one after the other.
    torch._functorch.config.donated_buffer = False
    # The compiler makes nothing of complex numbers. As an attribute of an instance, the function would not pickle, and
    # its copies would run on that instance.
    STFTDiscriminator.spectrum = torch.compiler.disable(STFTDiscriminator.spectrum)  # type: ignore[method-assign]
    parts = [getattr(model, name, None) for name in ('encoder', 'decoder')]
    for discriminator in adversaries.discriminators.values():
        parts += getattr(discriminator, 'discriminators', [discriminator])
    # Before PyTorch 2.11, the backward of weight norm refuses the layout that the compiler gives to weights.
    options = {'layout_optimization': False} if torch.__version__ < '2.11' else None
    for part in parts:
        if isinstance(part, nn.Module):
            part.compile(dynamic=False, options=options)


def uncompiled() -> AbstractContextManager[object]:
    """Within it, nothing is compiled: audio of any length comes by, and each would be compiled for."""
    return torch.compiler.set_stance('force_eager')
