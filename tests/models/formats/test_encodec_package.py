import pytest
import torch

from audiocodec.models import CompressionModel, EncodecModel
from audiocodec.models.formats import encodec_package

try:
    import encodec
    from encodec import modules, quantization
except OSError as error:  # of torchaudio, which it needs
    pytest.skip(
        f'encodec cannot be imported beside torch {torch.__version__}: {error}',
        allow_module_level=True,
    )

# the package is older than this PyTorch
pytestmark = pytest.mark.filterwarnings('ignore:`torch.nn.utils.weight_norm` is deprecated')

STEREO = {'norm': 'time_group_norm', 'causal': False, 'channels': 2}
MONO = {'norm': 'weight_norm', 'causal': True, 'channels': 1}
SMALL = {'n_filters': 2, 'dimension': 8}


def make_model(options, levels=3, bins=16, **seanet):
    """Build a model of the package, as its `_get_model` does, with random codebooks."""
    torch.manual_seed(0)
    encoder = modules.SEANetEncoder(**options, **seanet)
    decoder = modules.SEANetDecoder(**options, **seanet)
    quantizer = quantization.ResidualVectorQuantizer(
        dimension=encoder.dimension, n_q=levels, bins=bins
    )
    stereo = options['channels'] == 2
    rate = 48000 if stereo else 24000
    frame_rate, bits = rate // encoder.hop_length, bins.bit_length() - 1
    bandwidths = [n * bits * frame_rate / 1000 + 1e-4 for n in range(1, levels + 1)]
    return randomized(
        encodec.EncodecModel(
            encoder,
            decoder,
            quantizer,
            bandwidths,
            rate,
            options['channels'],
            normalize=stereo,
            segment=1.0 if stereo else None,
        )
    )


@torch.no_grad()
def randomized(model):
    model.eval()
    size = model.encoder(torch.randn(1, model.channels, 1000)).std()
    for level, layer in enumerate(model.quantizer.vq.layers):
        layer._codebook.embed.normal_(std=size * 0.9**level)
        layer._codebook.inited.fill_(1)
    return model


def flat(frames):
    """Return codes and scales of the package's segments, concatenated."""
    codes, scales = zip(*frames)
    return torch.cat(codes, dim=-1), None if scales[0] is None else torch.cat(scales, dim=1)


def load(model, path):
    torch.save(model.state_dict(), path)
    return CompressionModel.get_pretrained(str(path))


# lengths: less than a frame, odd, around the borders of segments (stride 47520) where the package
# can decode
@pytest.mark.slow
@pytest.mark.parametrize(
    ('options', 'lengths'),
    [
        (MONO, [1, 321, 3200, 4999]),
        (STEREO, [1, 999, 47520, 47521, 48000, 95041]),
    ],
)
@torch.no_grad()
def test_codes_and_waveforms_are_those_of_the_package(
    options, lengths, tmp_path, assert_same_codes
):
    theirs = make_model(options, **SMALL)
    ours = load(theirs, tmp_path / 'encodec.th')
    assert isinstance(ours, EncodecModel)
    assert (ours.sample_rate, ours.channels, ours.hop_length) == (
        theirs.sample_rate,
        options['channels'],
        320,
    )
    for length in lengths:
        wav = 0.3 * torch.randn(3, options['channels'], length)
        for n, bandwidth in enumerate(theirs.target_bandwidths, start=1):
            theirs.set_target_bandwidth(bandwidth)
            ours.set_num_codebooks(n)
            frames = theirs.encode(wav)
            expected, expected_scale = flat(frames)
            codes, scale = ours.encode(wav)
            assert codes.shape[1] == n
            assert_same_codes(ours, ours._to_latents(wav, ours.segments)[0], codes, expected)
            if expected_scale is None:
                assert scale is None
            else:
                torch.testing.assert_close(scale, expected_scale)
            torch.testing.assert_close(
                ours.decode(expected, scale), theirs.decode(frames), rtol=0, atol=1e-4
            )


@pytest.mark.parametrize(('options', 'length'), [(MONO, 9999), (STEREO, 50001)])
@torch.no_grad()
def test_codes_are_equal_where_rounding_is_small(options, length, tmp_path):
    theirs = make_model(options, **SMALL).double()
    theirs.set_target_bandwidth(theirs.target_bandwidths[-1])
    ours = load(theirs, tmp_path / 'encodec.th').double()
    wav = torch.randn(3, options['channels'], length, dtype=torch.float64)
    assert torch.equal(ours.encode(wav)[0], flat(theirs.encode(wav))[0])
    torch.testing.assert_close(ours(wav).wav, theirs(wav), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_length_that_the_package_cannot_decode(tmp_path):
    theirs = make_model(STEREO, **SMALL)
    ours = load(theirs, tmp_path / 'encodec.th')
    wav = torch.randn(1, 2, 47700)  # the first segment is decoded past the end of the second
    frames = theirs.encode(wav)
    with pytest.raises(RuntimeError, match='size of tensor'):
        theirs.decode(frames)
    codes, scale = ours.encode(wav)
    assert codes.shape[-1] == sum(codes.shape[-1] for codes, _ in frames)
    first = theirs._decode_frame(frames[0])
    torch.testing.assert_close(
        ours.decode(codes, scale)[..., :47520], first[..., :47520], rtol=0, atol=1e-4
    )
    assert ours(wav).wav.shape == wav.shape


@pytest.mark.parametrize(
    ('name', 'bandwidth', 'length'),
    [('encodec_model_24khz', 24.0, 5000), ('encodec_model_48khz', 6.0, 5000)],
)
@torch.no_grad()
def test_the_models_of_the_package_in_full(name, bandwidth, length, tmp_path, assert_same_codes):
    theirs = randomized(getattr(encodec.EncodecModel, name)(pretrained=False))
    theirs.set_target_bandwidth(bandwidth)
    ours = load(theirs, tmp_path / 'encodec.th')
    assert ours.total_codebooks == theirs.quantizer.n_q
    assert ours.cardinality == 1024
    frame_rate = 75 if ours.channels == 1 else 150
    assert ours.frame_rate == frame_rate
    ours.set_num_codebooks(int(bandwidth * 1000 / 10 / frame_rate))
    assert ours.bandwidth == pytest.approx(bandwidth)
    wav = 0.3 * torch.randn(1, ours.channels, length)
    expected, scale = flat(theirs.encode(wav))
    assert_same_codes(ours, ours._to_latents(wav, ours.segments)[0], ours.encode(wav)[0], expected)
    torch.testing.assert_close(
        ours.decode(expected, scale)[..., :length], theirs(wav), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    'seanet',
    [
        {},
        {'true_skip': True, 'compress': 4},
        {'lstm': 0, 'ratios': [6, 5]},
        {'lstm': 1, 'n_residual_layers': 3},
        {'kernel_size': 5, 'last_kernel_size': 3, 'residual_kernel_size': 5},
    ],
)
@torch.no_grad()
def test_the_architecture_is_found_in_the_weights(seanet, tmp_path):
    theirs = make_model(MONO, **{**SMALL, 'n_filters': 4}, **seanet).double()
    theirs.set_target_bandwidth(theirs.target_bandwidths[-1])
    ours = load(theirs, tmp_path / 'encodec.th').double()
    wav = torch.randn(1, 1, 999, dtype=torch.float64)
    assert torch.equal(ours.encode(wav)[0], flat(theirs.encode(wav))[0])
    torch.testing.assert_close(ours(wav).wav, theirs(wav), rtol=0, atol=1e-6)


@pytest.mark.parametrize('options', [MONO, STEREO])
def test_it_can_be_fine_tuned(options, tmp_path):
    model = load(make_model(options, **SMALL), tmp_path / 'encodec.th').train()
    out = model(0.3 * torch.randn(2, model.channels, 48000 if model.channels == 2 else 9600))
    assert out.codes.shape[-1] == (150 if model.channels == 2 else 30)  # whole items, not segments
    (out.wav.square().mean() + out.losses['commitment']).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_weights_that_are_neither_model(tmp_path):
    for channels, norm in ((1, 'time_group_norm'), (2, 'weight_norm')):
        with pytest.raises(
            ValueError, match=rf'encodec.th: .* have {channels} channels and {norm}'
        ):
            load(
                make_model({'norm': norm, 'causal': False, 'channels': channels}, **SMALL),
                tmp_path / 'encodec.th',
            )


def test_weights_that_are_incomplete(tmp_path):
    state = make_model(MONO, **SMALL).state_dict()
    assert encodec_package.is_checkpoint(state)
    for name, message in (
        ('encoder.model.3.conv.conv.weight_v', 'has a bias but no weight'),
        ('quantizer.vq.layers.1._codebook.embed', 'must be numbered from 0'),
        ('decoder.model.0.conv.conv.bias', 'missing'),
    ):
        path = tmp_path / 'encodec.th'
        torch.save({key: value for key, value in state.items() if key != name}, path)
        with pytest.raises(ValueError, match=rf'encodec\.th: .*{message}'):
            CompressionModel.get_pretrained(str(path))


@pytest.mark.parametrize('kbps', [1.5, 2.0, 3.0, 6.0, 7.4, 12.0, 24.0])
def test_a_bandwidth_uses_the_codebooks_that_it_uses_in_the_package(kbps, tmp_path):
    theirs = make_model(MONO, levels=32, bins=1024, **SMALL)
    ours = load(theirs, tmp_path / 'encodec.th')
    ours.set_bandwidth(kbps)
    theirs.target_bandwidths.append(kbps)
    theirs.set_target_bandwidth(kbps)
    [(codes, _)] = theirs.encode(torch.randn(1, 1, 320))
    assert ours.num_codebooks == codes.shape[1]
