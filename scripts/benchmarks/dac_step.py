"""The training update of `descript-audio-codec`, of its own models and losses, on noise.

The update is that of DAC's training script at 44.1 kHz: discriminators on detached reconstructions,
then the generator with mel, adversarial, feature and codebook losses, each with clipping and AdamW.
"""

import argparse
import warnings
from collections.abc import Callable

import torch

# weights and rates of DAC's 44.1 kHz configuration
_LAMBDAS = {
    'mel/loss': 15.0,
    'adv/feat_loss': 2.0,
    'adv/gen_loss': 1.0,
    'vq/commitment_loss': 0.25,
    'vq/codebook_loss': 1.0,
}


def make_update(args: argparse.Namespace) -> Callable[[], None]:
    """Return a function that runs one update with a batch of noise."""
    warnings.simplefilter('ignore')
    import dac
    from audiotools import AudioSignal
    from dac.model.discriminator import Discriminator
    from dac.nn import loss

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    generator = dac.DAC(quantizer_dropout=0.5).to(args.device).train()
    discriminator = Discriminator(sample_rate=44100).to(args.device).train()
    mel_loss = loss.MelSpectrogramLoss(
        n_mels=[5, 10, 20, 40, 80, 160, 320],
        window_lengths=[32, 64, 128, 256, 512, 1024, 2048],
        mel_fmin=[0] * 7,
        mel_fmax=[None] * 7,
        pow=1.0,
        mag_weight=0.0,
    )
    gan_loss = loss.GANLoss(discriminator)
    optimizers = [
        torch.optim.AdamW(part.parameters(), lr=1e-4, betas=(0.8, 0.99))
        for part in (generator, discriminator)
    ]

    def update() -> None:
        wav = 0.1 * torch.randn(args.batch, 1, int(44100 * args.seconds), device=args.device)
        signal = AudioSignal(wav, 44100)
        out = generator(wav, 44100)
        recons = AudioSignal(out['audio'], 44100)
        output = {name: out[name] for name in ('vq/commitment_loss', 'vq/codebook_loss')}
        d_loss = gan_loss.discriminator_loss(recons, signal)
        optimizers[1].zero_grad()
        d_loss.backward()
        torch.nn.utils.clip_grad_norm_(discriminator.parameters(), 10.0)
        optimizers[1].step()
        output['mel/loss'] = mel_loss(recons, signal)
        output['adv/gen_loss'], output['adv/feat_loss'] = gan_loss.generator_loss(recons, signal)
        optimizers[0].zero_grad()
        sum(weight * output[name] for name, weight in _LAMBDAS.items()).backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 1e3)
        optimizers[0].step()
        if args.device != 'cpu':
            torch.cuda.synchronize()

    return update
