"""Encoding and decoding with a published size of a codec, against other implementations of it."""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks.common import Stopwatch, apart, in_turn, peak_bytes, ratio, summary

HELP = 'encode and decode with EnCodec, DAC or Mimi, and the same by other packages'
DEFAULTS = {'threads': 1}
# recipe with the published size, overrides, and packages to compare with
FAMILIES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    'encodec': ('encodec_base_24khz', ('seanet.true_skip=false',), ('encodec', 'transformers')),
    'dac': ('dac_44khz', (), ('descript', 'transformers')),
    'mimi': ('mimi_24khz', (), ('transformers',)),
    'small': ('encodec_small_24khz', (), ()),
}
_CODEBOOKS = {'encodec': 8, 'dac': 9, 'mimi': 8, 'small': 8}  # in use by default


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the codec, the amount of audio, the number of codebooks and the model's layout."""
    parser.add_argument('--family', choices=list(FAMILIES), default='encodec')
    parser.add_argument('--seconds', type=float, default=10.0, help='of audio')
    parser.add_argument('--batch', type=int, default=1, help='items')
    parser.add_argument('--codebooks', type=int, help='in use; default: encodec 8, dac 9, mimi 8')
    parser.add_argument(
        '--layout',
        choices=('cpu', 'inference', 'plain'),
        default='cpu',
        help='for_cpu(), for_inference() or the model as it trains',
    )
    parser.add_argument('--peers', nargs='*', help='default: all of the family')


def make_model(args: argparse.Namespace) -> Any:
    """Build the published size with random weights."""
    from audiocodec import train
    from audiocodec.utils import config

    recipe, overrides, _ = FAMILIES[args.family]
    argv = [f'solver=compression/{recipe}', 'dset=audio/example', *overrides]
    model: Any = config.build(config.to_plain(train.main.get_xp(argv).cfg)['model'])
    model = model.eval().to(args.device)
    layouts = {'cpu': model.for_cpu, 'inference': model.for_inference, 'plain': lambda: model}
    return layouts[args.layout]()


def _encodec(wav: torch.Tensor, codebooks: int) -> Callable[[], Any]:
    """Encode and decode with the encodec package."""
    import encodec

    model = encodec.EncodecModel.encodec_model_24khz(pretrained=False).eval().to(wav.device)
    model.set_target_bandwidth(0.75 * codebooks)
    for layer in model.quantizer.vq.layers:
        layer._codebook.inited.fill_(1)
        layer._codebook.embed.normal_()
    return lambda: model.decode(model.encode(wav))


def _transformers_encodec(wav: torch.Tensor, codebooks: int) -> Callable[[], Any]:
    """Encode and decode with transformers."""
    import transformers

    model = transformers.EncodecModel(transformers.EncodecConfig()).eval().to(wav.device)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()

    def code() -> Any:
        encoded = model.encode(wav, bandwidth=0.75 * codebooks)
        return model.decode(encoded.audio_codes, encoded.audio_scales)

    return code


def _descript_dac(wav: torch.Tensor, codebooks: int) -> Callable[[], Any]:
    """Encode and decode with descript-audio-codec, with folded weights."""
    import dac

    model = dac.DAC().eval().to(wav.device)
    for module in model.modules():
        if hasattr(module, 'weight_g'):
            torch.nn.utils.remove_weight_norm(module)

    def code() -> Any:
        padded = model.preprocess(wav, 44100)
        return model.decode(model.encode(padded, codebooks)[0])

    return code


def _transformers_dac(wav: torch.Tensor, codebooks: int) -> Callable[[], Any]:
    """Encode and decode with transformers, whose weights are folded."""
    import transformers

    config = transformers.DacConfig(downsampling_ratios=[2, 4, 8, 8], sampling_rate=44100)
    model = transformers.DacModel(config).eval().to(wav.device)
    wav = torch.nn.functional.pad(wav, (0, -wav.shape[-1] % 512))
    return lambda: model.decode(model.encode(wav, codebooks).quantized_representation)


def _transformers_mimi(wav: torch.Tensor, codebooks: int) -> Callable[[], Any]:
    """Encode and decode with transformers."""
    import transformers

    model = transformers.MimiModel(transformers.MimiConfig()).eval().to(wav.device)
    for name, buffer in model.named_buffers():
        if name.endswith('embed_sum'):
            buffer.normal_()
    return lambda: model.decode(model.encode(wav, num_quantizers=codebooks).audio_codes)


_PEERS = {
    ('encodec', 'encodec'): _encodec,
    ('encodec', 'transformers'): _transformers_encodec,
    ('dac', 'descript'): _descript_dac,
    ('dac', 'transformers'): _transformers_dac,
    ('mimi', 'transformers'): _transformers_mimi,
}


def _noise(args: argparse.Namespace) -> torch.Tensor:
    """Return the input, the same in every process."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rate = 44100 if args.family == 'dac' else 24000
    return 0.1 * torch.randn(args.batch, 1, round(rate * args.seconds), device=args.device)


def make_peer(name: str, args: argparse.Namespace) -> Callable[[], None]:
    """Return a function that encodes and decodes with a peer."""
    code = _PEERS[args.family, name](_noise(args), args.codebooks)

    def run() -> None:
        with torch.inference_mode():
            code()
        Stopwatch(args.device).wait()

    return run


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time encoding and decoding of noise, each peer in its own process; `total` is both.

    Raises:
        ValueError: a peer that is not one of the family's.
    """
    args.codebooks = args.codebooks or _CODEBOOKS[args.family]
    names = FAMILIES[args.family][2] if args.peers is None else args.peers
    if unknown := set(names) - set(FAMILIES[args.family][2]):
        raise ValueError(f'--peers {sorted(unknown)}: expected {FAMILIES[args.family][2]}')
    wav = _noise(args)
    model = make_model(args)
    model.set_num_codebooks(args.codebooks)
    codes, _ = model.encode(wav)
    functions: dict[str, Callable[[], Any]] = {
        'encode': lambda: model.encode(wav),
        'decode': lambda: model.decode(codes),
    }
    with ExitStack() as peers, torch.inference_mode():
        functions |= {name: peers.enter_context(apart(make_peer, name, args)) for name in names}
        times = in_turn(functions, args.steps, args.warmup, args.device)
    times['total'] = [encode + decode for encode, decode in zip(times['encode'], times['decode'])]
    result: dict[str, Any] = {**summary(times), 'peak_bytes': peak_bytes(args.device)}
    result['real_time'] = round(1000 * args.batch * args.seconds / result['ms']['total'], 2)
    result['ratio'] = {name: ratio(times[name], times['total']) for name in names}
    return result
