"""The steps of a codec's encoder and decoder, made from its layers for CPUs."""

from collections.abc import Iterator

from torch import nn

from audiocodec.models.base import CompressionModel
from audiocodec.models.cpu.layers import LSTM, Block, Conv, ConvTranspose
from audiocodec.models.cpu.parts import Chain, Layer
from audiocodec.models.cpu.products import make_product
from audiocodec.models.cpu.seanet import Network
from audiocodec.models.encodec import EncodecModel
from audiocodec.models.streaming.memory import LSTMStep, TransformerStep
from audiocodec.models.streaming.steps import (
    BlockStep,
    FinalZeros,
    Grouped,
    LayerStep,
    Step,
    Steps,
)
from audiocodec.modules.conv import StreamableConv1d, StreamableConvTranspose1d
from audiocodec.modules.networks.seanet import SEANetDecoder, SEANetEncoder
from audiocodec.modules.transformer.codec import TransformerDecoder, TransformerEncoder
from audiocodec.modules.transformer.layers import Transformer
from audiocodec.quantization.codebook import Codebooks


def encoder_steps(model: CompressionModel) -> Steps:
    """Return the steps from the waveform to the codes.

    Raises:
        ValueError: the model needs the whole signal.
    """
    model = _streamable(model)
    for module in model.quantizer.modules():
        if isinstance(module, Codebooks):
            module.distances = [
                make_product(-2 * entries, entries.square().sum(1)) for entries in module.embed
            ]
    quantize = Grouped(model.quantizer.encode, model.quantizer.frame_group)
    return Steps([*_steps_of(model.encoder), quantize])


def decoder_steps(model: CompressionModel) -> Steps:
    """Return the steps from the codes to the waveform.

    Raises:
        ValueError: the model needs the whole signal.
    """
    model = _streamable(model)
    dequantize = Grouped(model.quantizer.decode, model.quantizer.frame_group)
    return Steps([dequantize, *_steps_of(model.decoder)])


def _streamable(model: CompressionModel) -> EncodecModel:
    """Return the copy for CPUs of a model without segments, with a loudness for the whole item."""
    if not isinstance(model, EncodecModel):
        raise _cannot(f'{type(model).__name__} is not a native codec with one encoder')
    if model.segments is not None:
        raise ValueError(
            'this model encodes segments, each as a whole: use encode_long and decode_long, which '
            'take a long signal segment by segment'
        )
    if model.renormalize:
        raise _cannot('renormalize=True needs the loudness of the whole signal')
    if model.cardinality == 0:
        raise _cannot('it has latents but no codes')
    fast = model.for_cpu()
    assert isinstance(fast, EncodecModel)
    return fast


def _cannot(reason: str) -> ValueError:
    return ValueError(
        f'this model cannot stream: {reason}. Use encode and decode with the whole signal'
    )


def _steps_of(module: nn.Module) -> list[Step]:
    if isinstance(module, SEANetEncoder):
        padding = [FinalZeros(module.hop_length)] if module.pad_input else []
        return [*padding, _network(module.model)]
    if isinstance(module, SEANetDecoder):
        network = _network(module.model)
        missing = module.hop_length - _frames(module.model, 1)
        return [network, FinalZeros(1, missing)] if missing else [network]
    if isinstance(module, Transformer):
        return [TransformerStep(module)]
    if isinstance(module, TransformerEncoder):
        parts = [module.encoder, module.transformer, module.downsample]
        return [step for part in parts for step in _steps_of(part)]
    if isinstance(module, TransformerDecoder):
        parts = [module.upsample, module.transformer, module.decoder]
        return [step for part in parts for step in _steps_of(part)]
    if isinstance(module, StreamableConv1d):
        return [_step(Conv(module, None, 1.0))]
    if isinstance(module, StreamableConvTranspose1d):
        return [_step(ConvTranspose(module, None, 1.0))]
    if isinstance(module, nn.Identity):
        return []
    raise _cannot(f'{type(module).__name__} computes the whole signal at once')


def _network(network: nn.Module) -> Steps:
    assert isinstance(network, Network)
    return Steps([_step(layer) for layer in _layers(network)], network.scale)


def _layers(network: Network) -> Iterator[nn.Module]:
    for module in network:
        yield from module.each() if isinstance(module, Chain) else [module]


def _frames(network: nn.Module, length: int) -> int:
    """Return the number of outputs of a network for `length` inputs."""
    assert isinstance(network, Network)
    for layer in _layers(network):
        length = layer.frames(length) if isinstance(layer, Layer) else length
    return length


def _step(layer: nn.Module) -> Step:
    """Return the step of a layer.

    Raises:
        ValueError: it needs the whole signal.
    """
    if isinstance(layer, LSTM):
        return LSTMStep(layer)
    if isinstance(layer, Layer) and not layer.obstacle:
        return BlockStep(layer) if isinstance(layer, Block) else LayerStep(layer)
    if isinstance(layer, Layer):
        raise _cannot(layer.obstacle)
    assert isinstance(layer, StreamableConvTranspose1d)  # its norm kept it from being converted
    raise _cannot(f'{type(layer.convtr.norm).__name__} averages over the whole signal')
