"""Encoding and decoding with EnCodec at 24 kHz, against packages `encodec` and `transformers`."""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from audiocodec.models import EncodecModel
from audiocodec.modules import SEANetDecoder, SEANetEncoder
from audiocodec.quantization import ResidualVectorQuantizer
from benchmarks.common import Stopwatch, apart, in_turn, peak_bytes, ratio, summary

HELP = 'encode and decode at 24 kHz, and the same by the encodec package and transformers'
DEFAULTS = {'threads': 1}
PEERS = ('encodec', 'transformers')
_CODEBOOKS = {1.5: 2, 3.0: 4, 6.0: 8, 12.0: 16, 24.0: 32}  # by bandwidth in kbps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the amount of audio, the bandwidth and the model's layout."""
    parser.add_argument('--seconds', type=float, default=10.0, help='of audio')
    parser.add_argument('--batch', type=int, default=1, help='items')
    parser.add_argument(
        '--bandwidth', type=float, default=6.0, choices=list(_CODEBOOKS), help='kbps'
    )
    parser.add_argument(
        '--layout',
        choices=('cpu', 'inference', 'plain'),
        default='cpu',
        help='for_cpu(), for_inference() or the model as it trains',
    )
    parser.add_argument('--peers', nargs='*', choices=PEERS, default=list(PEERS))


def make_model(layout: str, device: str) -> Any:
    """Build the published 24 kHz model with random weights."""
    seanet: dict[str, Any] = {
        'dimension': 128,
        'n_filters': 32,
        'n_residual_layers': 1,
        'ratios': [8, 5, 4, 2],
        'norm': 'weight_norm',
        'causal': True,
        'true_skip': False,
        'lstm': 2,
    }
    quantizer = ResidualVectorQuantizer(128, 32, bins=1024, kmeans_init=False)
    model = (
        EncodecModel(SEANetEncoder(**seanet), SEANetDecoder(**seanet), quantizer, 24000, 1)
        .eval()
        .to(device)
    )
    return {'cpu': model.for_cpu, 'inference': model.for_inference, 'plain': lambda: model}[
        layout
    ]()


def _encodec(wav: torch.Tensor, bandwidth: float) -> Callable[[], Any]:
    """Encode and decode with the encodec package."""
    import encodec

    model = encodec.EncodecModel.encodec_model_24khz(pretrained=False).eval().to(wav.device)
    model.set_target_bandwidth(bandwidth)
    for layer in model.quantizer.vq.layers:
        layer._codebook.inited.fill_(1)
        layer._codebook.embed.normal_()
    return lambda: model.decode(model.encode(wav))


def _transformers(wav: torch.Tensor, bandwidth: float) -> Callable[[], Any]:
    """Encode and decode with transformers."""
    import transformers

    model = transformers.EncodecModel(transformers.EncodecConfig()).eval().to(wav.device)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()

    def code() -> Any:
        encoded = model.encode(wav, bandwidth=bandwidth)
        return model.decode(encoded.audio_codes, encoded.audio_scales)

    return code


def _noise(args: argparse.Namespace) -> torch.Tensor:
    """Return the input, the same in every process."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return 0.1 * torch.randn(args.batch, 1, round(24000 * args.seconds), device=args.device)


def make_peer(name: str, args: argparse.Namespace) -> Callable[[], None]:
    """Return a function that encodes and decodes with a peer."""
    code = {'encodec': _encodec, 'transformers': _transformers}[name](_noise(args), args.bandwidth)

    def run() -> None:
        with torch.inference_mode():
            code()
        Stopwatch(args.device).wait()

    return run


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time encoding and decoding of noise, each peer in its own process; `total` is both."""
    wav = _noise(args)
    model = make_model(args.layout, args.device)
    model.set_num_codebooks(_CODEBOOKS[args.bandwidth])
    codes, _ = model.encode(wav)
    functions: dict[str, Callable[[], Any]] = {
        'encode': lambda: model.encode(wav),
        'decode': lambda: model.decode(codes),
    }
    with ExitStack() as peers, torch.inference_mode():
        functions |= {
            name: peers.enter_context(apart(make_peer, name, args)) for name in args.peers
        }
        times = in_turn(functions, args.steps, args.warmup, args.device)
    times['total'] = [encode + decode for encode, decode in zip(times['encode'], times['decode'])]
    result: dict[str, Any] = {**summary(times), 'peak_bytes': peak_bytes(args.device)}
    result['real_time'] = round(1000 * args.batch * args.seconds / result['ms']['total'], 2)
    result['ratio'] = {name: ratio(times[name], times['total']) for name in args.peers}
    return result
