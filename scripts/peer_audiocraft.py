#!/usr/bin/env python
r"""AudioCraft as a peer of `benchmark.py step` and `benchmark.py loader`, with the same options.

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
from typing import Any
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
RECIPES: dict[str, tuple[Any, ...]] = {
    'base_24khz': (24000, True, 32, [8, 5, 4, 2], 32, 1024, True),
    'musicgen_32khz': (32000, False, 64, [8, 5, 4, 4], 4, 2048, False),
    'audiogen_16khz': (16000, False, 64, [8, 5, 4, 2], 4, 2048, False),
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
    """Build a codec of AudioCraft with initialized codebooks: k-means has its own benchmark."""
    from audiocraft import models, modules, quantization

    sample_rate, causal, n_filters, ratios, n_q, bins, q_dropout = RECIPES[recipe]
    seanet = {
        'dimension': 128,
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
        dimension=128,
        n_q=n_q,
        q_dropout=q_dropout,
        bins=bins,
        decay=0.99,
        kmeans_init=True,
        kmeans_iters=50,
        threshold_ema_dead_code=2,
    )
    for layer in quantizer.vq.layers:
        book = layer._codebook
        book.embed.normal_()
        book.embed_avg.copy_(book.embed * 10)
        book.cluster_size.fill_(10.0)
        book.inited.fill_(1.0)
    return models.EncodecModel(
        encoder,
        decoder,
        quantizer,
        frame_rate=sample_rate // encoder.hop_length,
        sample_rate=sample_rate,
        channels=1,
        causal=causal,
    )


def make_adversary(device: str) -> Any:
    """Build the MS-STFT discriminator and its optimizer."""
    from audiocraft import adversarial

    discriminator = adversarial.MultiScaleSTFTDiscriminator(
        filters=32,
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


def make_update(recipe: str, device: str, watch: Stopwatch) -> Callable[[torch.Tensor], None]:
    """Return a function that updates on a batch [B, 1, T] like AudioCraft's CompressionSolver."""
    from audiocraft import losses, optim

    model, adversary = make_model(recipe).to(device).train(), make_adversary(device)
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

    return update


def run_step(args: argparse.Namespace) -> dict[str, Any]:
    """Measure like `benchmark.py step`."""
    torch.manual_seed(0)
    watch = Stopwatch(args.device)
    update = make_update(args.recipe, args.device, watch)
    for _ in watch.rounds(args.steps, args.warmup):
        wav = 0.1 * torch.randn(
            args.batch, 1, int(RECIPES[args.recipe][0] * args.seconds), device=args.device
        )
        with watch.measure('total'):
            update(wav)
    return {**summary(watch.times), 'peak_bytes': peak_bytes(args.device)}


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
    loader = commands.add_parser('loader', help=run_loader.__doc__)
    loader.add_argument('--source', required=True)
    loader.add_argument('--sample_rate', type=int, default=24000)
    loader.add_argument('--channels', type=int, default=1)
    loader.add_argument('--seconds', type=float, default=1.0)
    loader.add_argument('--batch', type=int, default=16)
    loader.add_argument('--workers', type=int, default=1)
    add_shared_arguments(step, {})
    add_shared_arguments(loader, {'steps': 30, 'warmup': 4, 'threads': 1})
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    import_audiocraft()
    result = {'step': run_step, 'loader': run_loader}[args.command](args)
    print(json.dumps({'peer': 'audiocraft', 'torch': torch.__version__, **result}))


if __name__ == '__main__':
    main()
