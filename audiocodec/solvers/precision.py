"""Precision, cuDNN's choice of algorithms and compiled modules: how an update is computed."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from omegaconf import DictConfig

from audiocodec.adversarial import AdversarialTrainer
from audiocodec.adversarial.discriminators import SpectralDiscriminator
from audiocodec.losses import LossCombiner
from audiocodec.models import CompressionModel
from audiocodec.modules.networks.snac import NoiseBlock
from audiocodec.optim.accumulate import check_items_are_independent, in_micro_batches
from audiocodec.optim.loss_scale import LossScales
from audiocodec.utils.config import ConfigError

# Limit of compiled graphs per function. Sub-discriminators share their code, and each of them needs
# graphs for two batch sizes (twice as large in its own training) and for audio with and without a
# gradient.
_MAX_GRAPHS = 128


def set_up(options: DictConfig, device: torch.device) -> None:
    """Set how this process computes in float32 on a GPU; nothing changes on a CPU.

    Args:
        options: `conv` and `matmul`, each `tf32` or `float32`, and `cudnn_benchmark`.
        device: device of the run.
    """
    if device.type != 'cuda':
        return
    # PyTorch 2.9 to 2.11 warn that the first two will be renamed.
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        torch.backends.cudnn.allow_tf32 = options.conv == 'tf32'
        torch.set_float32_matmul_precision('high' if options.matmul == 'tf32' else 'highest')
    torch.backends.cudnn.benchmark = options.cudnn_benchmark


def autocast(
    dtype: str | None, device: torch.device
) -> Callable[[], AbstractContextManager[object]]:
    """Return the autocast context of model and discriminators.

    Losses, quantizer, spectra and balancer disable it for themselves. bfloat16 has the range of
    float32; gradients in float16 need a scale, see `prepare`.

    Args:
        dtype: `bfloat16` or `float16`; None for float32, or TF32 on a GPU (see `set_up`).
        device: device of the run.

    Returns:
        A function that creates the context.

    Raises:
        ConfigError: the GPU does not support bfloat16.
    """
    if dtype is None:
        return nullcontext
    is_bfloat16 = dtype == 'bfloat16' and device.type == 'cuda'
    if is_bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f'precision.autocast={dtype}: {torch.cuda.get_device_name(device)} does not compute in '
            'bfloat16; use precision.autocast=float16 or null'
        )
    # No cache: its half-precision copies of weights would be stale after the discriminators' step.
    return lambda: torch.autocast(device.type, dtype=getattr(torch, dtype), cache_enabled=False)


def prepare(
    cfg: DictConfig,
    model: CompressionModel,
    adversaries: AdversarialTrainer,
    balancer: LossCombiner,
) -> LossScales:
    """Compile parts, run them in micro-batches, and scale gradients in float16, as configured.

    Returns:
        The scales of the gradients that parameters hold after a backward pass.
    """
    if cfg.compile:
        compile_parts(model, adversaries)
    accumulate(cfg.optim.accumulate, model, adversaries)
    is_float16 = cfg.precision.autocast == 'float16'
    scales = LossScales(next(balancer.buffers()).device if is_float16 else None)
    adversaries.loss_scale, balancer.loss_scale = scales.adversaries, scales.model
    return scales


def accumulate(number: int, model: CompressionModel, adversaries: AdversarialTrainer) -> None:
    """Compute updates in micro-batches, with the result of the whole batch; after `compile_parts`.

    Args:
        number: micro-batches per batch.
        model: its `compiled_parts` run on one micro-batch at a time, and again in the backward
            pass. Quantizer, losses and balancer get the whole batch.
        adversaries: the discriminators are trained and evaluated on one micro-batch at a time.

    Raises:
        ConfigError: a part whose result for an item depends on the other items of the batch, or a
            model without parts.
    """
    if number == 1:
        return
    try:
        if not model.compiled_parts:
            raise ValueError(f'{type(model).__name__} declares no parts (compiled_parts)')
        for part in model.compiled_parts:
            in_micro_batches(part, number)
        check_items_are_independent(adversaries.discriminators)
    except ValueError as error:
        raise ConfigError(f'optim.accumulate={number}: {error}; use optim.accumulate=1') from error
    adversaries.micro_batches = number


def compile_parts(model: CompressionModel, adversaries: AdversarialTrainer) -> None:
    """Compile parts of the model and sub-discriminators on their first run; keep state dicts.

    Only training, with its fixed shapes, runs compiled code; see `for_any_length`.
    """
    import torch._dynamo.config
    import torch._functorch.config

    torch._dynamo.config.recompile_limit = max(_MAX_GRAPHS, torch._dynamo.config.recompile_limit)
    # The adversarial and feature losses are backpropagated through one graph one after the other,
    # so the first backward pass must not reuse its buffers.
    torch._functorch.config.donated_buffer = False
    # The compiler supports neither complex numbers nor random generators. Set on the class: an
    # attribute of an instance would not pickle, and copies of the instance would call the
    # original's function. Not where the classes are defined: this imports the compiler.
    SpectralDiscriminator.spectrum = torch.compiler.disable(SpectralDiscriminator.spectrum)  # type: ignore[method-assign]
    NoiseBlock._offsets = torch.compiler.disable(NoiseBlock._offsets)  # type: ignore[method-assign]
    parts = list(model.compiled_parts)
    for discriminator in adversaries.discriminators.values():
        parts += getattr(discriminator, 'discriminators', [discriminator])
    # Before PyTorch 2.11, the backward of weight norm rejects the memory layout that the compiler
    # chooses for weights.
    options = {'layout_optimization': False} if torch.__version__ < '2.11' else None
    for part in parts:
        part.compile(dynamic=False, options=options)


@contextmanager
def for_any_length() -> Iterator[None]:
    """Turn compilation and cuDNN's benchmark off: both would start over for each new length."""
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        with torch.compiler.set_stance('force_eager'):
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
