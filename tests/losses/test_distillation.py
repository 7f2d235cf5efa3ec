"""Distillation: pooling and alignment, the teacher's states, what is trained, and clear errors."""

import copy
import json

import pytest
import torch
from torch.nn import functional as F

from audiocodec.losses import SemanticDistillation
from audiocodec.losses.distillation import pooled
from audiocodec.models import CodecOutput

RATE, HOP = 24000, 1920


def output_of(**features):
    zero = torch.zeros(())
    first = next(iter(features.values()))
    return CodecOutput(zero, zero, first, None, zero, {}, {}, features)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    pytest.importorskip('transformers')
    from teachers import save_teacher

    path = tmp_path_factory.mktemp('teacher')
    save_teacher(path)
    return path


def make(folder, **kwargs):
    torch.manual_seed(0)
    return SemanticDistillation(RATE, 6, str(folder), **kwargs)


def wave(frames=6, batch=2, channels=1):
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(batch, channels, frames * HOP, generator=generator)


def test_pooling_is_that_of_the_paper():
    """Kernel 8 and stride 4 for states at 50 Hz and frames at 12.5 Hz, symmetric in time."""
    states = torch.randn(2, 24, 3)
    expected = F.avg_pool1d(
        states.transpose(1, 2), 8, stride=4, padding=2, count_include_pad=False
    ).transpose(1, 2)
    torch.testing.assert_close(pooled(states, 6), expected)
    assert torch.equal(pooled(states, 24), states)
    torch.testing.assert_close(pooled(states.flip(1), 6), expected.flip(1))


def test_pooling_for_other_rates():
    states = torch.arange(5.0).view(1, 5, 1)
    assert pooled(states, 10)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    found = pooled(states, 3)
    assert found.isfinite().all()
    assert found[0, 1, 0] == 2


def test_the_target_is_aligned_with_the_frames(tmp_path):
    pytest.importorskip('transformers')
    from teachers import save_teacher

    save_teacher(tmp_path, num_hidden_layers=1, feat_extract_norm='layer')
    loss = make(tmp_path, teacher_layer=0)  # the layers of attention see everything
    assert loss.teach(wave()).shape == (2, 24, 16)
    assert loss.normalizes
    loss.normalizes = False
    wav = wave(frames=9, batch=1)
    other = wav.clone()
    other[..., 4 * HOP : 5 * HOP] = wav[..., 6 * HOP : 7 * HOP]
    changed = pooled(loss.teach(other) - loss.teach(wav), 9).abs().sum((0, 2))
    assert changed.argmax() == 4
    # the convolution for positions reaches a frame further
    assert changed[[0, 1, 7, 8]].max() < 1e-4 * changed[4]
    torch.testing.assert_close(changed[3], changed[5], rtol=0.5, atol=0)


def test_states_are_those_of_the_teacher(folder):
    from teachers import save_teacher

    teacher = save_teacher(folder)
    wav = 0.1 * torch.randn(2, 1, 3200)
    overlap = (10 + 39 * 8) - 320
    padded = F.pad(wav[:, 0], (overlap // 2, overlap - overlap // 2))
    with torch.no_grad():
        states = teacher(padded, output_hidden_states=True).hidden_states
    for layer, expected in ((-1, states[-1]), (1, states[1]), (None, torch.stack(states).mean(0))):
        loss = SemanticDistillation(16000, 6, str(folder), layer)
        torch.testing.assert_close(loss.teach(wav), expected)


def test_loss_is_the_cosine_distance_and_trains_projection_and_features(folder):
    loss = make(folder)
    features = torch.randn(2, 6, 6, requires_grad=True)
    value = loss(output_of(semantic=features), wave())
    target = pooled(loss.teach(wave()), 6)
    predicted = features.transpose(1, 2) @ loss.projection.weight.T + loss.projection.bias
    cosine = (F.normalize(predicted, dim=-1) * F.normalize(target, dim=-1)).sum(-1)
    torch.testing.assert_close(value, 1 - cosine.mean())
    value.backward()
    assert features.grad.abs().max() > 0
    assert loss.projection.weight.grad.abs().max() > 0


def test_training_reduces_the_loss(folder):
    loss = make(folder)
    features = torch.randn(2, 6, 6, requires_grad=True)
    optimizer = torch.optim.Adam([features, *loss.parameters()], lr=0.05)
    values = []
    for _ in range(30):
        value = loss(output_of(semantic=features), wave())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.3 * values[0]


def test_only_the_projection_is_state(folder):
    loss = make(folder)
    assert sorted(loss.state_dict()) == ['projection.bias', 'projection.weight']
    assert [tuple(p.shape) for p in loss.parameters()] == [(16, 6), (16,)]
    loss.train()
    assert not loss._teacher[0].training
    assert torch.equal(loss.teach(wave()), loss.teach(wave()))
    output = output_of(semantic=torch.ones(2, 6, 6))
    assert torch.equal(copy.deepcopy(loss)(output, wave()), loss(output, wave()))


def test_initial_weights_do_not_depend_on_the_teacher(folder):
    loss = make(folder)
    torch.manual_seed(0)
    expected = torch.nn.Linear(6, 16)
    assert torch.equal(loss.projection.weight, expected.weight)


@pytest.mark.parametrize('kind', ['Hubert', 'Wav2Vec2'])
def test_other_teachers(kind, tmp_path):
    pytest.importorskip('transformers')
    from teachers import save_teacher

    save_teacher(tmp_path, kind, num_hidden_layers=1)
    loss = make(tmp_path, feature='latents', teacher_layer=None)
    value = loss(output_of(other=torch.randn(2, 6, 6)), wave(channels=2))
    assert value.shape == ()
    assert 0 < value < 2


def test_preprocessing_of_the_teacher(folder, tmp_path):
    from teachers import save_teacher

    save_teacher(tmp_path, num_hidden_layers=1)
    options = {'sampling_rate': 8000, 'do_normalize': True}
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(options))
    loss = make(tmp_path)
    assert loss.teach(wave()).shape == (2, 12, 16)
    torch.testing.assert_close(loss.teach(wave()), loss.teach(3 * wave() + 1), rtol=0, atol=1e-3)
    assert not torch.allclose(make(folder).teach(wave()), make(folder).teach(3 * wave()), atol=1e-3)


def test_clear_errors(folder, tmp_path):
    with pytest.raises(ValueError, match='teacher=null: expected a folder'):
        SemanticDistillation(RATE, 6)
    with pytest.raises(ValueError, match=r'teacher=.*expected a folder with config.json'):
        make(tmp_path / 'none')
    with pytest.raises(ValueError, match=r'teacher_layer=3: .* has 2 layers'):
        make(folder, teacher_layer=3)
    (tmp_path / 'config.json').write_text('{"model_type": "wavlm"}')
    with pytest.raises(ValueError, match='transformers cannot load it'):
        make(tmp_path)
    loss = make(folder)
    with pytest.raises(ValueError, match=r"feature='semantic': this model computes a, latents"):
        loss(output_of(a=torch.zeros(2, 6, 6)), wave())
    with pytest.raises(ValueError, match=r"dimension=6: the feature 'semantic' .* has 5 channels"):
        loss(output_of(semantic=torch.zeros(2, 5, 6)), wave())


def test_weights_that_are_missing_are_not_random(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / 'model.safetensors')
    del state['encoder.layers.0.final_layer_norm.weight']
    save_file(state, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
    (tmp_path / 'config.json').write_text((folder / 'config.json').read_text())
    with pytest.raises(ValueError, match='1 weights are missing, such as encoder'):
        make(tmp_path)
