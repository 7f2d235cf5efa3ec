#!/usr/bin/env bash
# MusicgenForConditionalGeneration encodes an audio prompt at the first of the audio encoder's target_bandwidths, whatever
# the number of codebooks of its decoder. With a codec of several bandwidths, and a decoder of more codebooks than the
# lowest one has, generate with a prompt fails; without a prompt it works.
#
# Seen with transformers 5.24.0, torch 2.14.1: EncodecConfig(target_bandwidths=[1.5, 3.0]) and a decoder of 4 codebooks:
# "shape '[4, 10]' is invalid for input of size 20"; with target_bandwidths=[3.0] the prompt is accepted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 transformers==5.24.0 numpy
"$folder/venv/bin/python" - <<'Y'
import torch
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    T5Config,
)


def outcome(bandwidths):
    torch.manual_seed(0)
    codec = EncodecConfig(
        target_bandwidths=bandwidths, num_filters=4, hidden_size=16, codebook_size=1024, codebook_dim=16
    )
    text = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    decoder = MusicgenDecoderConfig(
        vocab_size=1024, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, num_codebooks=4
    )
    config = MusicgenConfig(text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict())
    model = MusicgenForConditionalGeneration(config).eval()
    model.generation_config.decoder_start_token_id = 1024
    model.generation_config.pad_token_id = 1024
    try:
        model.generate(
            input_ids=torch.ones(1, 3, dtype=torch.long),
            attention_mask=torch.ones(1, 3, dtype=torch.long),
            input_values=torch.randn(1, 1, 3200),
            padding_mask=torch.ones(1, 3200, dtype=torch.long),
            max_new_tokens=4,
            do_sample=False,
        )
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return 'accepted'


several, one = outcome([1.5, 3.0]), outcome([3.0])
print(f'two bandwidths: {several}\none bandwidth: {one}')
assert 'is invalid for input of size' in several and one == 'accepted', 'the behavior has changed'
Y
