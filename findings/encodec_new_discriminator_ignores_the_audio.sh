#!/usr/bin/env bash
# The logits of a new multi-scale STFT discriminator of EnCodec are almost constant: between sixteen recordings as
# different as tones from 100 Hz to 1.1 kHz and noise of eight levels, they differ by a ten-thousandth of their power.
# PyTorch's default initialization gives kernels a variance of 1 / (3 fan-in), so that each of the six layers weakens its
# input, while it adds biases: those of the last layers are what is left. With kernels of variance 1 / fan-in and no
# biases, the same network has a fifth to a half of its power from the audio. The multi-period discriminator in vocos,
# with the same default initialization, has 1 to 3 %; the multi-resolution discriminator beside it, whose spectra are
# normalized, a third or more. No loss tells this from a discriminator that has yet to learn: all start at a guess.
#
# Seen with encodec 0.1.1, vocos 0.1.0, torch 2.8.0, three seeds: fraction of the power of logits that differs
#   encodec, MultiScaleSTFTDiscriminator              0.0001, 0.0002, 0.0001
#   the same, kernels of variance 1 / fan-in          0.47, 0.22, 0.50
#   vocos, MultiPeriodDiscriminator                   0.008, 0.025, 0.013
#   vocos, MultiResolutionDiscriminator               0.54, 0.39, 0.32
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q encodec==0.1.1 vocos==0.1.0 torch==2.8.0 torchaudio==2.8.0 'numpy<2.4'
cat > "$folder/logits.py" <<'P'
import math
import warnings

import torch
from encodec.msstftd import MultiScaleSTFTDiscriminator
from vocos.discriminators import MultiPeriodDiscriminator, MultiResolutionDiscriminator

warnings.simplefilter('ignore')


def recordings():
    """[16, 24000]: eight tones and eight noises, a second each at 24 kHz."""
    torch.manual_seed(0)
    time = torch.arange(24000) / 24000
    tones = [0.3 * torch.sin(2 * math.pi * 100 * 2 ** (i / 2) * time) for i in range(8)]
    noises = [0.1 * 2 ** (-i / 2) * torch.randn(24000) for i in range(8)]
    return torch.stack(tones + noises)


def fraction(logits):
    """Of the power of logits, that which differs between the items of the batch."""
    parts = [one.flatten(1) for one in logits]
    different = sum((part - part.mean(0)).square().mean() for part in parts)
    return float(different / sum(part.square().mean() for part in parts))


def scaled(discriminator):
    """Draw the kernels anew, with variance 1 / fan-in, and set biases to 0."""
    for module in discriminator.modules():
        if hasattr(module, 'weight_v'):
            fan_in = module.weight_v[0].numel()
            module.weight_v.data.normal_(0, fan_in**-0.5)
            norm = module.weight_v.data.flatten(1).norm(dim=1)
            module.weight_g.data.copy_(norm.view_as(module.weight_g))
            module.bias.data.zero_()
    return discriminator


wav = recordings()
found = {}
for seed in range(3):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, logits in (
            ('encodec', MultiScaleSTFTDiscriminator(filters=32)(wav[:, None])[0]),
            ('encodec, 1 / fan-in', scaled(MultiScaleSTFTDiscriminator(filters=32))(wav[:, None])[0]),
            ('vocos, periods', MultiPeriodDiscriminator()(wav, wav)[0]),
            ('vocos, resolutions', MultiResolutionDiscriminator()(wav, wav)[0]),
        ):
            found.setdefault(name, []).append(fraction(logits))
for name, values in found.items():
    print(f'{name}:', *(f'{value:.2g}' for value in values))
assert max(found['encodec']) < 0.001
assert min(found['encodec, 1 / fan-in']) > 0.1
assert max(found['vocos, periods']) < 0.05
assert min(found['vocos, resolutions']) > 0.1
P
"$folder/venv/bin/python" "$folder/logits.py" || {
    echo 'the behavior has changed'
    exit 1
}
