import pytest
import torch

from audiocodec.models.export import program
from audiocodec.modules import StreamableConv1d
from audiocodec.modules.conv import PAD_MODES


@pytest.mark.parametrize('mode', PAD_MODES)
@pytest.mark.parametrize('causal', [True, False])
def test_traceable_convolution_pads_as_the_source_does(mode, causal):
    source = StreamableConv1d(
        2, 3, kernel_size=7, stride=2, dilation=2, causal=causal, pad_mode=mode
    )
    traceable = program._Conv(source)
    for length in (1, 2, 3, 7, 12, 13, 40):
        x = torch.randn(2, 2, length)
        torch.testing.assert_close(traceable(x), source(x), rtol=0, atol=1e-6)


def test_traceable_lstm_and_group_norm_compute_the_same():
    lstm, x = torch.nn.LSTM(6, 6, 2), torch.randn(9, 3, 6)
    torch.testing.assert_close(program.ScanLSTM(lstm)(x), lstm(x)[0], rtol=0, atol=1e-6)
    norm = torch.nn.GroupNorm(1, 4)
    torch.nn.init.normal_(norm.weight)
    x = 3 + torch.randn(2, 4, 50)
    torch.testing.assert_close(program._GroupNorm(norm)(x), norm(x), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_program_gives_every_codebook_whatever_is_in_use(make_codec):
    model = make_codec()
    wav = 0.1 * torch.randn(2, 1, 1000)
    codes, _ = model.encode(wav)
    model.set_num_codebooks(2)
    encoder, decoder = program.programs(model, 'torch', program.ScanLSTM)
    with torch.no_grad():
        assert torch.equal(encoder(wav)[0], codes)
        torch.testing.assert_close(
            decoder(codes[:, :3]), model.decode(codes[:, :3]), rtol=0, atol=1e-6
        )
    model.set_num_codebooks(4)


@pytest.mark.parametrize('recipe', ['mono', 'stereo'])
def test_description_and_examples_are_those_of_the_model(make_codec, recipe):
    model = make_codec(recipe)
    text = program.description(model)
    assert (text['sample_rate'], text['hop_length'], text['frame_rate']) == (8000, 160, 50)
    assert (text['codebooks'], text['cardinality']) == (4, 32)
    inputs = program.example_inputs(model)
    (wav,), _ = inputs['encoder']
    arguments, dynamic = inputs['decoder']
    assert wav.shape == (2, model.channels, 9 * 160 + 3)
    assert arguments[0].shape == (2, 4, 9)
    has_scale = recipe == 'stereo'
    assert ('scale' in text['encoder']['outputs']) == has_scale
    assert (len(arguments), len(dynamic)) == ((2, 2) if has_scale else (1, 1))


def test_programs_compute_the_same_as_a_model_that_renormalizes(make_codec):
    model = make_codec('stereo')
    encoder, decoder = program.programs(model, 'torch', program.ScanLSTM)
    wav = 0.1 * torch.randn(2, 2, 1234)
    codes, scale = model.encode(wav)
    with torch.no_grad():
        found, found_scale = encoder(wav)
        assert torch.equal(found, codes)
        torch.testing.assert_close(found_scale, scale)
        torch.testing.assert_close(
            decoder(codes, scale), model.decode(codes, scale), rtol=0, atol=1e-5
        )


def test_an_untraceable_part_is_named():
    error = program.untraceable('onnx', 'encoder', RuntimeError('\n\nfirst line\nsecond'))
    assert str(error).startswith("the format 'onnx' does not support this model: its encoder ")
    assert str(error).endswith('raised RuntimeError: first line')
