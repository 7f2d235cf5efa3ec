import copy
import importlib.metadata
import json
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from audiocodec.dsp.resample import resample
from audiocodec.models import AudioTokenizer, CompressionModel
from audiocodec.models.formats import hub
from audiocodec.models.wrapped import auto

transformers = pytest.importorskip('transformers')

RATIOS = {'downsampling_ratios': [8, 5, 4, 2], 'upsampling_ratios': [8, 5, 4, 2]}
DAC = {
    'model_type': 'dac',
    'encoder_hidden_size': 4,
    'decoder_hidden_size': 32,
    'hidden_size': 16,
    **RATIOS,
}
TRANSFORMER = {
    'hidden_size': 16,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
    'intermediate_size': 16,
}
HUBERT = {
    'model_type': 'hubert',
    **TRANSFORMER,
    'conv_dim': [8] * 7,
    'num_conv_pos_embeddings': 4,
    'num_conv_pos_embedding_groups': 2,
    'mask_time_prob': 0.0,
}
X_CODEC = {
    'codebook_size': 16,
    'acoustic_model_config': DAC,
    'semantic_model_config': HUBERT,
}
X_CODEC_2 = {
    **TRANSFORMER,
    'hidden_size': 32,
    'num_key_value_heads': 2,
    'head_dim': 16,
    'encoder_hidden_size': 2,
    'semantic_model_config': {
        'model_type': 'wav2vec2-bert',
        **TRANSFORMER,
        'hidden_size': 32,
        'output_hidden_size': 32,
        'conv_depthwise_kernel_size': 3,
    },
    'quantization_dim': 64,
    'quantization_levels': [4, 4, 4],
}
SEANET = {'num_filters': 2, 'upsampling_ratios': [4, 3, 2], 'hidden_size': 16}
# by `model_type`: name in `transformers`, configuration, and (sample_rate, hop_length, cardinality,
# total_codebooks)
KINDS = {
    'xcodec': ('Xcodec', {**X_CODEC, 'target_bandwidths': [0.2, 0.8]}, (16000, 320, 16, 4)),
    'higgs_audio_v2_tokenizer': (
        'HiggsAudioV2Tokenizer',
        {
            **X_CODEC,
            'target_bandwidths': [0.2, 0.7],
            'sample_rate': 24000,
            'codebook_dim': 8,
            # 480 samples, 320 of the semantic model's at 16 kHz
            'acoustic_model_config': {
                **DAC,
                'downsampling_ratios': [8, 5, 4, 3],
                'upsampling_ratios': [8, 5, 4, 3],
            },
        },
        (24000, 480, 16, 3),
    ),
    'xcodec2': ('Xcodec2', X_CODEC_2, (16000, 320, 64, 1)),
    'neucodec': ('NeuCodec', X_CODEC_2, (24000, 480, 64, 1)),
    'pocket_tts_audio_tokenizer': (
        'PocketTTSAudioTokenizer',
        {
            **TRANSFORMER,
            **SEANET,
            'num_key_value_heads': 2,
            'head_dim': 8,
            'upsample_groups': 16,
            'latent_stride': 4,
            'latent_dim': 8,
        },
        (24000, 96, 0, 0),
    ),
    'vibevoice_acoustic_tokenizer': (
        'VibeVoiceAcousticTokenizer',
        {
            'hidden_size': 8,
            'num_filters': 2,
            'downsampling_ratios': [2, 4, 5],
            'depths': [1, 1, 1, 1],
            'layer_scale_init_value': 0.1,
            'initializer_range': 0.3,
        },
        (24000, 40, 0, 0),
    ),
}
DISCRETE = [kind for kind, (_, _, figures) in KINDS.items() if figures[3]]
CONTINUOUS = [kind for kind in KINDS if kind not in DISCRETE]


def build(kind):
    """Make a small model whose latents differ, and whose codebooks fit them."""
    name, options, _ = KINDS[kind]
    if not hasattr(transformers, f'{name}Model'):
        pytest.skip(f'{kind} needs transformers {auto.SINCE[kind]}')
    needs_torchaudio = kind in ('higgs_audio_v2_tokenizer', 'xcodec2', 'neucodec')
    if needs_torchaudio and not transformers.utils.is_torchaudio_available():
        pytest.skip(f'transformers needs torchaudio for {kind}')
    torch.manual_seed(0)
    config = getattr(transformers, f'{name}Config')(**options)
    model = getattr(transformers, f'{name}Model')(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(('embed', 'embed_avg')):
                tensor.normal_().mul_(0.05)
            elif 'project_in' in name or 'fc_encoder' in name:
                tensor.normal_()
    return model


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
    """Make the model of a type, and load it, once."""
    made = {}

    def pair(kind):
        if kind not in made:
            theirs = build(kind)
            folder = tmp_path_factory.mktemp('auto') / kind
            theirs.save_pretrained(folder)
            # rounding depends on where the weights lie in memory, which is in the file for both
            theirs = type(theirs).from_pretrained(folder).eval()
            made[kind] = theirs, CompressionModel.get_pretrained(str(folder)), folder
        return made[kind]

    return pair


def inputs_of(theirs, wav):
    """Prepare a waveform as the feature extractor of `transformers` does."""
    kind = theirs.config.model_type
    hop = KINDS[kind][2][1]
    if kind != 'xcodec2':
        wav = torch.nn.functional.pad(wav, (0, -wav.shape[-1] % hop))
    if kind == 'neucodec':
        wav = resample(wav, 24000, 16000)
    if kind not in ('xcodec2', 'neucodec'):
        return {'input_values': wav}
    extractor = getattr(transformers, f'{KINDS[kind][0]}FeatureExtractor')()
    return dict(extractor(list(wav[:, 0].numpy()), sampling_rate=16000, return_tensors='pt'))


def random(length, batch=2):
    torch.manual_seed(length)
    return 0.1 * torch.randn(batch, 1, length)


@pytest.mark.parametrize('kind', KINDS)
def test_figures(pairs, kind):
    model = pairs(kind)[1]
    assert isinstance(model, AudioTokenizer)
    assert not model.training
    rate, hop, bins, books = KINDS[kind][2]
    assert (model.sample_rate, model.channels, model.hop_length) == (rate, 1, hop)
    assert (model.cardinality, model.total_codebooks, model.num_codebooks) == (bins, books, books)
    assert model.bandwidth == pytest.approx(books * np.log2(max(bins, 2)) * rate / hop / 1000)


@pytest.mark.parametrize('kind', DISCRETE)
@torch.no_grad()
def test_codes_and_waveforms_are_those_of_transformers(pairs, kind):
    theirs, ours, _ = pairs(kind)
    hop = ours.hop_length
    used = set()
    for length in (1, hop - 1, 3 * hop, 3 * hop + 1):
        wav = random(length)
        expected = theirs.encode(**inputs_of(theirs, wav)).audio_codes
        codes, scale = ours.encode(wav)
        assert scale is None
        assert codes.dtype == torch.int64
        assert torch.equal(codes, expected.long())
        # the feature extractor of X-Codec 2 adds a sample
        frames = length // hop + 1 if kind == 'xcodec2' else -(-length // hop)
        assert codes.shape == (2, ours.total_codebooks, frames)
        assert ours.frames(length) == frames
        decoded = theirs.decode(expected).audio_values
        assert torch.equal(ours.decode(codes), decoded)
        assert decoded.shape == (2, 1, frames * hop)
        out = ours(wav.numpy())
        assert torch.equal(out.wav, decoded[..., :length])
        assert torch.equal(out.codes, codes)
        assert torch.equal(out.latents, ours.decode_latent(codes.numpy()))
        assert out.latents.shape[::2] == (2, frames)
        assert out.bandwidth.item() == pytest.approx(ours.bandwidth)
        used.update(codes.unique().tolist())
    assert len(used) > 2


@pytest.mark.parametrize('kind', DISCRETE)
def test_every_item_of_a_padded_batch_is_as_if_it_were_alone(pairs, kind):
    _, ours, _ = pairs(kind)
    hop = ours.hop_length
    wav, lengths = random(4 * hop), [4 * hop, 2 * hop + 1]
    codes, _ = ours.encode(wav, lengths)
    frames = [ours.frames(length) for length in lengths]
    decoded = ours.decode(codes, lengths=frames)
    for item, length in enumerate(lengths):
        alone, _ = ours.encode(wav[[item], :, :length])
        assert torch.equal(codes[item, :, : frames[item]], alone[0])
        assert not codes[item, :, frames[item] :].any()
        expected = ours.decode(alone)[0]
        assert torch.equal(decoded[item, :, : expected.shape[-1]], expected)


@pytest.mark.parametrize('kind', CONTINUOUS)
@torch.no_grad()
def test_continuous_models_reconstruct_like_transformers(pairs, kind):
    theirs, ours, _ = pairs(kind)
    hop = ours.hop_length
    noise = {'sample': False} if kind.startswith('vibevoice') else {}
    for length in (1, hop - 1, 3 * hop, 3 * hop + 1):
        wav = random(length)
        expected = theirs.encode(**inputs_of(theirs, wav), **noise).latents
        latents, scale = ours.encode_latent(wav)
        assert scale is None
        assert torch.equal(latents, expected.mT)
        assert latents.shape == (2, 8, -(-length // hop))
        decoded = theirs.decode(expected)
        decoded = getattr(decoded, 'audio', None) if noise else decoded.audio_values
        assert decoded.std() > 0
        assert torch.equal(ours.synthesize(latents), decoded)
        out = ours(wav.numpy())
        assert torch.equal(out.wav, decoded[..., :length])
        assert torch.equal(out.latents, latents)
        assert out.codes.shape == (2, 0, latents.shape[2])
        assert (out.codes.dtype, out.bandwidth.item(), out.losses) == (torch.int64, 0, {})


@pytest.mark.parametrize('kind', CONTINUOUS)
def test_what_continuous_models_cannot_do(pairs, kind):
    model = pairs(kind)[1]
    codes = torch.zeros(1, 1, 4, dtype=torch.int64)
    for call, message in (
        (lambda: model.encode(random(99)), 'has latents but no codes: use encode_latent'),
        (lambda: model.decode(codes), 'decodes latents, not codes: use synthesize'),
        (lambda: model.decode_latent(codes), 'decodes latents, not codes'),
        (lambda: model.set_num_codebooks(1), 'cannot use 1 codebooks: .* it has none'),
        (lambda: model.set_bandwidth(1.5), 'does not quantize'),
        (lambda: model.synthesize(torch.zeros(1, 7, 3)), r'expected \[B, 8, T\]'),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    model.set_num_codebooks(0)
    assert list(model.possible_num_codebooks) == []


@pytest.mark.parametrize('kind', DISCRETE)
def test_what_discrete_models_cannot_do(pairs, kind):
    model = pairs(kind)[1]
    with pytest.raises(ValueError, match=f'latents of a {kind} before its quantizer'):
        model.encode_latent(random(99))
    with pytest.raises(ValueError, match='decodes codes, not latents'):
        model.synthesize(torch.zeros(1, 7, 3))
    with pytest.raises(ValueError, match=r'expected \[B, 1, T\]'):
        model.encode(torch.zeros(1, 2, 640))
    with pytest.raises(ValueError, match='does not renormalize'):
        model.decode(torch.zeros(1, 1, 4, dtype=torch.int64), torch.ones(1, 1))


@pytest.mark.parametrize('kind', ['xcodec', 'higgs_audio_v2_tokenizer'])
@torch.no_grad()
def test_first_codebooks(pairs, kind):
    theirs, ours, _ = pairs(kind)
    wav = random(999)
    ours.set_num_codebooks(1)
    lowest = theirs.config.target_bandwidths[0]
    expected = theirs.encode(**inputs_of(theirs, wav), bandwidth=lowest).audio_codes
    assert expected.shape[1] == 1
    codes, _ = ours.encode(wav)
    assert torch.equal(codes, expected)
    assert torch.equal(ours.decode(codes), theirs.decode(expected).audio_values)
    ours.set_num_codebooks(ours.total_codebooks)
    assert ours.encode(wav)[0].shape[1] == ours.total_codebooks


@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_copies_compute_the_same(pairs, kind):
    model = pairs(kind)[1]
    wav = random(999)
    expected = model(wav).wav
    for made in (
        model.for_inference(),
        model.for_cpu(),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ):
        torch.testing.assert_close(made(wav).wav, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize('kind', ['pocket_tts_audio_tokenizer', 'vibevoice_acoustic_tokenizer'])
def test_gradients_pass_through_continuous_models(pairs, kind):
    wav = random(999).requires_grad_()
    pairs(kind)[1](wav).wav.square().sum().backward()
    assert wav.grad.isfinite().all()
    assert wav.grad.abs().max() > 0


def test_the_feature_extractor_in_the_folder_is_used(pairs, tmp_path):
    _, _, folder = pairs('vibevoice_acoustic_tokenizer')
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    transformers.VibeVoiceAcousticTokenizerFeatureExtractor(sampling_rate=16000).save_pretrained(
        tmp_path
    )
    assert CompressionModel.get_pretrained(str(tmp_path)).sample_rate == 16000


@pytest.mark.slow
@torch.no_grad()
def test_a_model_is_used_in_another_process(pairs, tmp_path):
    model = pairs('xcodec')[1]
    wav = random(999)
    torch.save((model, wav, model(wav).codes), tmp_path / 'model.pt')
    program = (
        'import sys, torch; from audiocodec.models.formats import hub; hub.import_transformers(); '
        'model, wav, codes = torch.load(sys.argv[1], weights_only=False); '
        'assert torch.equal(model(wav).codes, codes)'
    )
    command = [sys.executable, '-c', program, str(tmp_path / 'model.pt')]
    subprocess.run(command, check=True, timeout=120)


@torch.no_grad()
def test_what_transformers_notes_of_its_classes_is_restored(pairs, monkeypatch):
    model = pairs('xcodec')[1]
    wav = random(999)
    codes, dumped = model(wav).codes, pickle.dumps(model)
    for place in ('transformers.utils.output_capturing', 'transformers.utils.generic'):
        registry = getattr(sys.modules.get(place), '_CAN_RECORD_REGISTRY', None)
        if registry is not None:
            monkeypatch.setattr(f'{place}._CAN_RECORD_REGISTRY', type(registry)())
    assert torch.equal(pickle.loads(dumped)(wav).codes, codes)


def test_a_feature_extractor_that_cannot_be_built(pairs, tmp_path):
    _, _, folder = pairs('vibevoice_acoustic_tokenizer')
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / 'preprocessor_config.json').write_text('[')
    with pytest.raises(ValueError, match=r'feature extractor of the vibevoice.* cannot be built'):
        CompressionModel.get_pretrained(str(tmp_path))


# ---- without a model of `transformers` -----------------------------------------------------------


class Foreign(torch.nn.Module):
    """A codec of a type that is not known here, with frames before codebooks."""

    def __init__(self, **config):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        config = {'model_type': 'foreign', 'sampling_rate': 800, 'codebook_size': 4, **config}
        self.config = SimpleNamespace(**config)

    def encode(self, input_values, return_dict=None):
        codes = (input_values.reshape(len(input_values), -1, 4) > 0).long()
        return SimpleNamespace(audio_codes=codes[..., :2])

    def decode(self, audio_codes, return_dict=None):
        wav = audio_codes.float().repeat_interleave(2, dim=2).flatten(1) * self.weight[0]
        return SimpleNamespace(audio_values=wav[:, :-1])


def test_frames_and_samples_per_frame_are_measured():
    model = AudioTokenizer(Foreign())
    assert (model.hop_length, model.total_codebooks, model.cardinality) == (4, 2, 4)
    wav = torch.tensor([[[1.0, -1, 1, 1, -1, 1]]])
    codes, _ = model.encode(wav)
    assert codes.tolist() == [[[1, 0], [0, 1]]]
    assert model.decode(codes).tolist() == [[[1, 1, 0, 0, 0, 0, 1, 0]]]
    assert model(wav).wav.shape == wav.shape
    assert model(wav).latents.shape == (1, 0, 2)
    with pytest.raises(ValueError, match='cannot use 1 codebooks: this model can use 2 to 2'):
        model.set_num_codebooks(1)
    with pytest.raises(ValueError, match='does not give the latents of the codes of a foreign'):
        model.decode_latent(codes)


def test_models_that_are_no_codecs():
    with pytest.raises(ValueError, match='of the foreign has no codebook_size and no'):
        AudioTokenizer(Foreign(codebook_size=None))
    with pytest.raises(ValueError, match='a feature extractor has a sampling rate: expected pre'):
        AudioTokenizer(Foreign(sampling_rate=None))
    model = Foreign()
    model.encode = lambda input_values, return_dict=None: {'text': 1}
    with pytest.raises(ValueError, match=r"cannot be run as a codec: .* \['text'\], expected"):
        AudioTokenizer(model)


def write_config(folder, kind):
    (folder / 'config.json').write_text(json.dumps({'model_type': kind}))
    return str(folder)


def test_a_version_that_is_too_old(monkeypatch, tmp_path):
    old = SimpleNamespace(__version__='4.50.0')
    monkeypatch.setattr(hub, 'import_transformers', lambda: old)
    for kind, version in (('xcodec', '4.56'), ('xcodec2', '5.13')):
        with pytest.raises(
            ValueError, match=rf'needs transformers {version} or later, found 4\.50'
        ):
            CompressionModel.get_pretrained(write_config(tmp_path, kind))
    with pytest.raises(
        ValueError, match="model_type 'bert': only encodec, dac, mimi, wavtokenizer, xcodec, "
    ):
        CompressionModel.get_pretrained(write_config(tmp_path, 'bert'))


def test_without_transformers(monkeypatch, tmp_path):
    def fail():
        raise ImportError('no transformers')

    monkeypatch.setattr(hub, 'import_transformers', fail)
    with pytest.raises(ValueError, match=r"pip install 'transformers>=5\.17'") as error:
        CompressionModel.get_pretrained(write_config(tmp_path, 'neucodec'))
    assert str(tmp_path) in str(error.value)


def test_the_first_versions_are_those_of_this_table():
    """A type that the installed version lists must not be said to need a later one."""
    installed = tuple(map(int, importlib.metadata.version('transformers').split('.')[:2]))
    listed = {config.model_type for config in transformers.MODEL_FOR_AUDIO_TOKENIZATION_MAPPING}
    for kind, since in auto.SINCE.items():
        if kind != 'xcodec':
            assert (kind in listed) == (installed >= tuple(map(int, since.split('.'))))
