"""Exports of EnCodec in MusicGen of `transformers`, as its audio encoder."""

from pathlib import Path

import pytest
import torch

from audiocodec.data import read_segment
from audiocodec.models.formats import hf, hub

EXAMPLES = Path(__file__).parents[3] / 'dataset' / 'example' / 'evaluate'
TEXTS = torch.tensor([[3, 4, 5], [6, 7, 1]])
PROMPT_FRAMES, NEW_TOKENS = 10, 12


@pytest.fixture(scope='module')
def wav():
    """Half a second of music and of speech, [2, 1, 4000] at 8 kHz."""
    names = ('music_guitar_fifths_001.flac', 'speech_en_librispeech_001.flac')
    return torch.stack([read_segment(EXAMPLES / name, 8000, 4000, 8000, 1) for name in names])


@pytest.fixture(scope='module', params=[False, True], ids=['one bandwidth', 'every bandwidth'])
def ours(request, make_codec):
    """Return a model, trained for all its codebooks only, or for fewer as well."""
    return make_codec(quantizer={'q_dropout': request.param})


@pytest.fixture(scope='module')
def musicgen(ours, tmp_path_factory):
    """Return a small MusicGen with random weights over the export of the model."""
    transformers = hub.import_transformers()
    folder = tmp_path_factory.mktemp('export')
    hf.save(ours, folder)
    audio_encoder = transformers.EncodecModel.from_pretrained(folder)
    # MusicGen encodes at the first bandwidth of the list
    audio_encoder.config.target_bandwidths = audio_encoder.config.target_bandwidths[-1:]
    torch.manual_seed(0)
    text_encoder = transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0
        )
    )
    decoder = transformers.MusicgenForCausalLM(
        transformers.MusicgenDecoderConfig(
            vocab_size=ours.cardinality,
            num_codebooks=ours.num_codebooks,
            pad_token_id=ours.cardinality,
            bos_token_id=ours.cardinality,
            decoder_start_token_id=ours.cardinality,
            hidden_size=16,
            num_hidden_layers=1,
            ffn_dim=32,
            num_attention_heads=2,
            dropout=0.0,
        )
    )
    return transformers.MusicgenForConditionalGeneration(
        text_encoder=text_encoder, audio_encoder=audio_encoder, decoder=decoder
    ).eval()


@torch.no_grad()
def test_codes_and_waveforms_are_those_of_the_model(ours, musicgen, wav):
    codes, _ = ours.encode(wav)
    theirs = musicgen.audio_encoder.encode(wav).audio_codes
    assert codes.shape == (2, 4, 25)
    assert torch.equal(theirs[0], codes)
    decoded = musicgen.audio_encoder.decode(theirs, [None]).audio_values
    torch.testing.assert_close(decoded, ours.decode(codes), atol=1e-6, rtol=0)


def test_it_learns_the_codes(ours, musicgen, wav):
    labels = ours.encode(wav)[0].transpose(1, 2)
    before = {name: value.clone() for name, value in musicgen.audio_encoder.state_dict().items()}
    optimizer = torch.optim.Adam(musicgen.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = musicgen.train()(input_ids=TEXTS, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(ours.cardinality).log().item(), abs=0.2)
    assert losses[-1] < 0.75 * losses[0]
    after = musicgen.audio_encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@torch.no_grad()
def test_it_continues_audio(ours, musicgen, wav, monkeypatch):
    prompt = wav[..., : PROMPT_FRAMES * ours.hop_length]
    seen, decode = [], musicgen.audio_encoder.decode

    def record(codes, **kwargs):
        seen.append(codes)
        return decode(codes, **kwargs)

    monkeypatch.setattr(musicgen.audio_encoder, 'decode', record)
    generated = musicgen.generate(
        input_ids=TEXTS, input_values=prompt, max_new_tokens=NEW_TOKENS, do_sample=False
    )
    codes = seen[0][0]
    # the delay of the last codebook takes away as many frames of the new ones
    frames = PROMPT_FRAMES + NEW_TOKENS - (ours.num_codebooks - 1)
    assert codes.shape == (2, ours.num_codebooks, frames)
    assert torch.equal(codes[..., :PROMPT_FRAMES], ours.encode(prompt)[0])
    assert generated.shape == (2, 1, frames * ours.hop_length)
    torch.testing.assert_close(generated, ours.decode(codes), atol=1e-6, rtol=0)
