#!/usr/bin/env python
r"""AudioCraft as a peer of `benchmark.py step`, `loader` and `curve`, with the same options.

    python scripts/benchmark.py step --against 'PEER/bin/python scripts/peer_audiocraft.py step'

PEER is a separate virtual environment with the same torch and torchaudio, and

    pip install --no-deps audiocraft==1.3.0
    pip install flashy einops omegaconf julius numpy soundfile huggingface_hub num2words \
        librosa torchmetrics av transformers

Other modules that AudioCraft imports and EnCodec does not use are replaced by empty ones.
"""

import argparse
import importlib.machinery
import json
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import torch
from benchmarks.common import Stopwatch, add_shared_arguments, peak_bytes, summary, time_batches

UNUSED = (
    'xformers',
    'xformers.ops',
    'spacy',
    'demucs',
    'demucs.apply',
    'demucs.audio',
    'demucs.pretrained',
    'audioseal',
    'audioseal.models',
    'gradio',
    'torchtext',
    'laion_clap',
    'hear21passt',
    'pesq',
    'pystoi',
    'torchdiffeq',
    'encodec',
)
# From AudioCraft's configurations: sample rate, causal, filters, ratios, codebooks, entries,
# quantizer dropout.
# Then latent dimension and filters of the discriminator. The small one is ours, at its size.
RECIPES: dict[str, tuple[Any, ...]] = {
    'base_24khz': (24000, True, 32, [8, 5, 4, 2], 32, 1024, True, 128, 32),
    'musicgen_32khz': (32000, False, 64, [8, 5, 4, 4], 4, 2048, False, 128, 32),
    'audiogen_16khz': (16000, False, 64, [8, 5, 4, 2], 4, 2048, False, 128, 32),
    'encodec_small_24khz': (24000, True, 8, [8, 5, 4, 2], 8, 256, True, 32, 8),
}
ADAM: dict[str, Any] = {'lr': 3e-4, 'betas': (0.5, 0.9)}


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        setattr(self, name, MagicMock(name=name))
        return self.__dict__[name]


def import_audiocraft() -> None:
    """Import AudioCraft without the packages that EnCodec does not use."""
    warnings.filterwarnings('ignore')
    for name in UNUSED:
        sys.modules[name] = _Empty(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
    try:
        import audiocraft.data.audio_dataset  # noqa: F401
    except ImportError as error:
        raise SystemExit(
            f'{error}: run this with the Python of an environment with AudioCraft, see the top of '
            f'{__file__}'
        ) from error


def make_model(recipe: str) -> Any:
    """Build a codec of AudioCraft."""
    from audiocraft import models, modules, quantization

    sample_rate, causal, n_filters, ratios, n_q, bins, q_dropout, dimension, _ = RECIPES[recipe]
    seanet = {
        'dimension': dimension,
        'channels': 1,
        'causal': causal,
        'n_filters': n_filters,
        'n_residual_layers': 1,
        'ratios': ratios,
        'norm': 'weight_norm',
        'norm_params': {},
        'kernel_size': 7,
        'last_kernel_size': 7,
        'residual_kernel_size': 3,
        'dilation_base': 2,
        'pad_mode': 'constant',
        'true_skip': True,
        'compress': 2,
        'lstm': 2,
        'disable_norm_outer_blocks': 0,
        'activation': 'ELU',
        'activation_params': {'alpha': 1.0},
    }
    encoder = modules.SEANetEncoder(**seanet)
    decoder = modules.SEANetDecoder(trim_right_ratio=1.0, **seanet)
    quantizer = quantization.ResidualVectorQuantizer(
        dimension=dimension,
        n_q=n_q,
        q_dropout=q_dropout,
        bins=bins,
        decay=0.99,
        kmeans_init=True,
        kmeans_iters=50,
        threshold_ema_dead_code=2,
    )
    return models.EncodecModel(
        encoder,
        decoder,
        quantizer,
        frame_rate=sample_rate // encoder.hop_length,
        sample_rate=sample_rate,
        channels=1,
        causal=causal,
    )


def fill_codebooks(model: Any) -> None:
    """Initialize the codebooks: k-means has its own benchmark."""
    for layer in model.quantizer.vq.layers:
        book = layer._codebook
        book.embed.normal_()
        book.embed_avg.copy_(book.embed * 10)
        book.cluster_size.fill_(10.0)
        book.inited.fill_(1.0)


def make_adversary(recipe: str, device: str) -> Any:
    """Build the MS-STFT discriminator and its optimizer."""
    from audiocraft import adversarial

    discriminator = adversarial.MultiScaleSTFTDiscriminator(
        filters=RECIPES[recipe][-1],
        norm='weight_norm',
        n_ffts=[1024, 2048, 512, 256, 128],
        hop_lengths=[256, 512, 128, 64, 32],
        win_lengths=[1024, 2048, 512, 256, 128],
        activation='LeakyReLU',
        activation_params={'negative_slope': 0.3},
    ).to(device)
    return adversarial.AdversarialLoss(
        discriminator,
        torch.optim.Adam(discriminator.parameters(), **ADAM),
        loss=adversarial.get_adv_criterion('hinge'),
        loss_real=adversarial.get_real_criterion('hinge'),
        loss_fake=adversarial.get_fake_criterion('hinge'),
        loss_feat=adversarial.FeatureMatchingLoss(torch.nn.L1Loss()),
    )


def make_losses(sample_rate: int, device: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Build the losses that train the model, and those that are only metrics."""
    from audiocraft import losses

    mel = {
        'sample_rate': sample_rate,
        'n_mels': 64,
        'f_min': 64,
        'f_max': None,
        'floor_level': 1e-5,
    }
    trained = {
        'l1': torch.nn.L1Loss(),
        'msspec': losses.MultiScaleMelSpectrogramLoss(
            range_start=6, range_end=11, normalized=True, alphas=False, **mel
        ).to(device),
    }
    return trained, {
        'mel': losses.MelSpectrogramL1Loss(n_fft=1024, hop_length=256, win_length=1024, **mel).to(
            device
        ),
        'sisnr': losses.SISNR(sample_rate=sample_rate, segment=5.0),
    }


class Training(NamedTuple):
    """A function that updates on a batch [B, 1, T], the averaged weights, the metrics."""

    update: Callable[[torch.Tensor], None]
    model: Any
    average: Any
    metrics: dict[str, Any]


def make_training(model: Any, recipe: str, device: str, watch: Stopwatch) -> Training:
    """Train like AudioCraft's CompressionSolver."""
    from audiocraft import losses, optim

    adversary = make_adversary(recipe, device)
    trained, watched = make_losses(model.sample_rate, device)
    balancer = losses.Balancer({'adv': 4.0, 'feat': 4.0, 'l1': 0.1, 'msspec': 2.0}, ema_decay=0.999)
    optimizer = torch.optim.Adam(model.parameters(), **ADAM)
    average = optim.ModuleDictEMA(torch.nn.ModuleDict({'model': model}), decay=0.99, device=device)

    def squared_norm() -> Any:
        return sum(p.grad.norm().square() for p in model.parameters() if p.grad is not None)

    def update(wav: torch.Tensor) -> None:
        with watch.measure('model_forward'):
            out = model(wav)
        with watch.measure('discriminator_step'):
            d_loss = adversary.train_adv(out.x, wav)
        found = {}
        with watch.measure('generator_adversarial_forward'):
            found['adv'], found['feat'] = adversary(out.x, wav)
        with watch.measure('spectral_losses'):
            found.update({name: loss(out.x, wav) for name, loss in trained.items()})
        with watch.measure('commitment_backward'):
            out.penalty.backward(retain_graph=True)
            squared_norm()
        with watch.measure('balancer_and_model_backward'):
            g_loss = balancer.backward(found, out.x)
            squared_norm()
        with watch.measure('optimizer'):
            optimizer.step()
            optimizer.zero_grad()
        with watch.measure('ema'):
            average.step()
        with watch.measure('metrics'), torch.no_grad():
            found.update({name: loss(out.x, wav) for name, loss in watched.items()})
            [float(value) for value in (*found.values(), d_loss, g_loss)]

    return Training(update, model, average, watched)


def run_step(args: argparse.Namespace) -> dict[str, Any]:
    """Measure like `benchmark.py step`."""
    torch.manual_seed(0)
    watch = Stopwatch(args.device)
    model = make_model(args.recipe).to(args.device).train()
    fill_codebooks(model)
    update = make_training(model, args.recipe, args.device, watch).update
    for _ in watch.rounds(args.steps, args.warmup):
        wav = 0.1 * torch.randn(
            args.batch, 1, int(RECIPES[args.recipe][0] * args.seconds), device=args.device
        )
        with watch.measure('total'):
            update(wav)
    return {**summary(watch.times), 'peak_bytes': peak_bytes(args.device)}


def run_curve(args: argparse.Namespace) -> dict[str, Any]:
    """Train like `benchmark.py curve`."""
    import numpy as np

    torch.manual_seed(args.seed)
    model = make_model(args.recipe).to(args.device).train()
    watch = Stopwatch(args.device)
    training = make_training(model, args.recipe, args.device, watch)
    batches = np.load(Path(args.batches) / 'train.npy', mmap_mode='r')
    held_out = torch.from_numpy(np.load(Path(args.batches) / 'valid.npy'))
    found: dict[str, list[float]] = {}
    for update in range(1, args.updates + 1):
        with watch.measure('total'):
            training.update(torch.from_numpy(np.array(batches[update - 1])))
        if update % args.every == 0 or update == args.updates:
            values = {'update': update, 'seconds': sum(watch.times['total']) / 1e3}
            for name, value in {**values, **validate(training, held_out)}.items():
                found.setdefault(name, []).append(round(value, 4))
            print(update, found['mel'][-1], file=sys.stderr, flush=True)
    return {'curve': found}


@torch.no_grad()
def validate(training: Training, wavs: torch.Tensor) -> dict[str, float]:
    """Return the metrics of waveforms [N, 1, T] with averaged weights."""
    model, average = training.model, training.average
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict({**own, **average.state['model']})
    model.eval()
    parts = [(wav, model(wav)) for wav in wavs.split(8)]
    codes = torch.cat([out.codes for _, out in parts])
    fractions = [len(level.unique()) / model.cardinality for level in codes.unbind(1)]
    model.load_state_dict(own)
    model.train()
    means = {
        name: sum(float(metric(out.x, wav)) * len(wav) for wav, out in parts) / len(wavs)
        for name, metric in training.metrics.items()
    }
    return {
        'mel': means['mel'],
        'sisnr': -means['sisnr'],  # a loss in AudioCraft
        'codebook_usage': sum(fractions) / len(fractions),
        'codebook_usage_min': min(fractions),
    }


def run_loader(args: argparse.Namespace) -> dict[str, Any]:
    """Measure like `benchmark.py loader`, on the audio files of a folder."""
    import soundfile
    from audiocraft.data.audio_dataset import AudioDataset, AudioMeta

    metas = []
    for path in sorted(Path(args.source).rglob('*')):
        if path.suffix.lower() in ('.ogg', '.mp3', '.flac', '.wav'):
            info = soundfile.info(path)
            metas.append(
                AudioMeta(path=str(path), duration=info.duration, sample_rate=info.samplerate)
            )
    dataset = AudioDataset(
        metas,
        args.seconds,
        num_samples=args.batch * (args.warmup + args.steps),
        sample_rate=args.sample_rate,
        channels=args.channels,
    )
    batches = torch.utils.data.DataLoader(
        dataset, args.batch, num_workers=args.workers, shuffle=True, collate_fn=dataset.collater
    )
    return time_batches(batches, args.batch, args.workers, args.steps, args.warmup)


def main() -> None:
    """Run the command line; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    commands = parser.add_subparsers(dest='command', required=True)
    step = commands.add_parser('step', help=run_step.__doc__)
    step.add_argument('--recipe', choices=RECIPES, default='base_24khz')
    step.add_argument('--batch', type=int, default=4)
    step.add_argument('--seconds', type=float, default=1.0)
    curve = commands.add_parser('curve', help=run_curve.__doc__)
    curve.add_argument('--recipe', choices=RECIPES, default='encodec_small_24khz')
    curve.add_argument('--batches', required=True)
    curve.add_argument('--updates', type=int, default=500)
    curve.add_argument('--every', type=int, default=20)
    curve.add_argument('--seed', type=int, default=0)
    loader = commands.add_parser('loader', help=run_loader.__doc__)
    loader.add_argument('--source', required=True)
    loader.add_argument('--sample_rate', type=int, default=24000)
    loader.add_argument('--channels', type=int, default=1)
    loader.add_argument('--seconds', type=float, default=1.0)
    loader.add_argument('--batch', type=int, default=16)
    loader.add_argument('--workers', type=int, default=1)
    add_shared_arguments(step, {})
    add_shared_arguments(curve, {'threads': 1})
    add_shared_arguments(loader, {'steps': 30, 'warmup': 4, 'threads': 1})
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    import_audiocraft()
    result = {'step': run_step, 'curve': run_curve, 'loader': run_loader}[args.command](args)
    print(json.dumps({'peer': 'audiocraft', 'torch': torch.__version__, **result}))


if __name__ == '__main__':
    main()
