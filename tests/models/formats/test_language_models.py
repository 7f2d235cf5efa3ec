"""Exports in language models of `transformers`: EnCodec in MusicGen, Mimi in CSM."""

import json
from pathlib import Path

import pytest
import torch

from audiocodec.data import read_segment
from audiocodec.models.formats import hf, hub, mimi, mimi_export
from audiocodec.utils import config

TESTS = Path(__file__).parents[2]
TEXTS = torch.tensor([[3, 4, 5], [6, 7, 1]])
PROMPT_FRAMES, NEW_FRAMES = 10, 9
UPDATES = 12


def example(model, frames):
    """Return music and speech, [2, 1, T]."""
    names = ('music_guitar_fifths_001.flac', 'speech_en_librispeech_001.flac')
    folder = TESTS.parent / 'dataset' / 'example' / 'evaluate'
    rate, length = model.sample_rate, frames * model.hop_length
    return torch.stack([read_segment(folder / name, rate, length, rate, 1) for name in names])


def assert_learns(model, codec, cardinality, **inputs):
    """Train a language model: its loss starts at that of a guess; the codec does not change."""
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(UPDATES):
        loss = model.train()(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    assert losses[0] == pytest.approx(torch.tensor(cardinality).log().item(), rel=0.07)
    assert losses[-1] < 0.75 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())


@pytest.fixture(scope='module', params=[False, True], ids=['one bandwidth', 'every bandwidth'])
def encodec(request, make_codec):
    """Return a model, trained for all its codebooks only, or for fewer as well."""
    return make_codec(quantizer={'q_dropout': request.param})


@pytest.fixture(scope='module')
def musicgen(encodec, tmp_path_factory):
    """Return a small MusicGen with random weights and the export of the model."""
    transformers = hub.import_transformers()
    folder = tmp_path_factory.mktemp('encodec')
    hf.save(encodec, folder)
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
            vocab_size=encodec.cardinality,
            num_codebooks=encodec.num_codebooks,
            pad_token_id=encodec.cardinality,
            bos_token_id=encodec.cardinality,
            decoder_start_token_id=encodec.cardinality,
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
def test_codes_and_waveforms_in_musicgen_are_those_of_the_model(encodec, musicgen):
    wav = example(encodec, 25)
    codes, _ = encodec.encode(wav)
    theirs = musicgen.audio_encoder.encode(wav).audio_codes
    assert codes.shape == (2, 4, 25)
    assert torch.equal(theirs[0], codes)
    decoded = musicgen.audio_encoder.decode(theirs, [None]).audio_values
    torch.testing.assert_close(decoded, encodec.decode(codes), atol=1e-6, rtol=0)


def test_musicgen_learns_the_codes(encodec, musicgen):
    labels = encodec.encode(example(encodec, 25))[0].transpose(1, 2)
    codec = musicgen.audio_encoder
    assert_learns(musicgen, codec, encodec.cardinality, input_ids=TEXTS, labels=labels)


@torch.no_grad()
def test_musicgen_continues_audio(encodec, musicgen, monkeypatch):
    prompt = example(encodec, PROMPT_FRAMES)
    seen, decode = [], musicgen.audio_encoder.decode

    def record(codes, **kwargs):
        seen.append(codes)
        return decode(codes, **kwargs)

    monkeypatch.setattr(musicgen.audio_encoder, 'decode', record)
    generated = musicgen.generate(
        input_ids=TEXTS,
        input_values=prompt,
        # the last codebook lags behind the first
        max_new_tokens=NEW_FRAMES + encodec.num_codebooks - 1,
        do_sample=False,
    )
    codes = seen[0][0]
    frames = PROMPT_FRAMES + NEW_FRAMES
    assert codes.shape == (2, encodec.num_codebooks, frames)
    assert torch.equal(codes[..., :PROMPT_FRAMES], encodec.encode(prompt)[0])
    assert generated.shape == (2, 1, frames * encodec.hop_length)
    torch.testing.assert_close(generated, encodec.decode(codes), atol=1e-6, rtol=0)


@pytest.fixture(scope='module')
def small_mimi():
    """Return a Mimi with random weights, and codebooks after two updates."""
    options = json.loads((TESTS / 'fixtures' / 'mimi' / 'config.json').read_text())
    # transformers 4.57 ignores the window
    node = mimi.model_config({**options, 'sliding_window': 10000})
    node['quantizer']['kmeans_iters'] = 2
    torch.manual_seed(0)
    model = config.build(node).train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 1, 40 * model.hop_length))
    return model.eval()


@pytest.fixture(scope='module')
def csm(small_mimi, tmp_path_factory):
    """Return a small CSM with random weights and the export of the model."""
    transformers = hub.import_transformers()
    folder = tmp_path_factory.mktemp('mimi') / 'export'
    mimi_export.save(small_mimi, folder)
    codec = transformers.MimiModel.from_pretrained(folder)
    shared = {
        'num_codebooks': small_mimi.num_codebooks,
        'vocab_size': small_mimi.cardinality,
        'hidden_size': 16,
        'intermediate_size': 16,
        'num_hidden_layers': 1,
        'num_attention_heads': 2,
        'num_key_value_heads': 2,
    }
    torch.manual_seed(0)
    model = transformers.CsmForConditionalGeneration(
        transformers.CsmConfig(
            **shared,
            codec_config=codec.config,
            depth_decoder_config=transformers.CsmDepthDecoderConfig(
                **shared, backbone_hidden_size=16, pad_token_id=None
            ),
            text_vocab_size=16,
            bos_token_id=11,
            pad_token_id=12,
            audio_token_id=13,
            audio_eos_token_id=14,
            codebook_pad_token_id=0,
        )
    ).eval()
    model.codec_model = codec
    model.depth_decoder.generation_config.max_new_tokens = small_mimi.num_codebooks - 1
    return model


@torch.no_grad()
def test_codes_in_csm_are_those_of_the_model(small_mimi, csm):
    wav = example(small_mimi, 25)
    codes, _ = small_mimi.encode(wav)
    assert codes.shape == (2, 4, 25)
    assert len(codes.unique()) > 8
    assert torch.equal(csm.codec_model.encode(wav).audio_codes, codes)


def audio_inputs(wav, frames):
    """Return a text, and the place of the audio after it."""
    audio = torch.full((len(wav), frames), 13)
    ends = torch.full((len(wav), 1), wav.shape[-1])
    return {
        'input_ids': torch.cat([TEXTS, audio], dim=1),
        'input_values': wav,
        'input_values_cutoffs': ends,
    }


def test_csm_learns_the_codes(small_mimi, csm):
    inputs = audio_inputs(example(small_mimi, PROMPT_FRAMES), PROMPT_FRAMES)
    labels = inputs['input_ids'].masked_fill(inputs['input_ids'] != 13, -100)
    # the loss is the sum over two models
    assert_learns(csm, csm.codec_model, small_mimi.cardinality**2, **inputs, labels=labels)


@torch.no_grad()
def test_csm_continues_audio(small_mimi, csm):
    prompt = example(small_mimi, PROMPT_FRAMES)
    generated = csm.generate(
        **audio_inputs(prompt, PROMPT_FRAMES),
        max_new_tokens=NEW_FRAMES,
        do_sample=False,
        output_audio=True,
        return_dict_in_generate=True,
    )
    codes = generated.sequences.transpose(1, 2)
    assert codes.shape == (2, small_mimi.num_codebooks, NEW_FRAMES)
    decoded = small_mimi.decode(codes)
    assert decoded.shape == (2, 1, NEW_FRAMES * small_mimi.hop_length)
    torch.testing.assert_close(torch.stack(generated.audio)[:, None], decoded, atol=1e-6, rtol=0)
