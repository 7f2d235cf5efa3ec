import pytest
import torch

from audiocodec.models.export.compact import save_compact
from audiocodec.models.export.source import open_source


def test_a_model_is_copied(make_codec):
    model = make_codec().train()
    found = open_source(model)
    assert found.name == 'a model of type EncodecModel'
    assert (found.path, found.content, found.origin) == (None, None, {})
    assert found.model is not model
    assert not found.model.training
    assert model.training


def test_a_training_checkpoint_is_named_by_its_experiment(make_codec, save_checkpoint, tmp_path):
    model = make_codec()
    path = save_checkpoint(model, tmp_path / 'secret' / 'checkpoint.th')
    for source in (path, path.parent):
        found = open_source(source)
        assert found.name == 'experiment 0a1b2c3d, epoch 7'
        assert found.origin == {'sig': '0a1b2c3d', 'epoch': 7}
        assert found.path == path
        assert found.content['state']['updates'] == 3
    state = model.state_dict()
    for name, value in found.model.state_dict().items():
        if name in state and value.is_floating_point():
            assert torch.equal(value, state[name])  # the averaged weights


@pytest.mark.parametrize(
    ('origin', 'name'),
    [
        ({}, 'model.bin'),
        ({'sig': '0a1b2c3d'}, 'experiment 0a1b2c3d'),
        ({'sig': '0a1b2c3d', 'epoch': 2}, 'experiment 0a1b2c3d, epoch 2'),
    ],
)
def test_an_exported_model_has_no_content_for_bundles(make_codec, tmp_path, origin, name):
    model = make_codec()
    save_compact(model.built_from, model.state_dict(), tmp_path / 'model.bin', **origin)
    found = open_source(tmp_path / 'model.bin')
    assert (found.name, found.content, found.origin) == (name, None, origin)


def test_a_known_name_is_the_name():
    for name in ('audiocodec/small_24khz', '//pretrained/audiocodec/small_24khz'):
        found = open_source(name)
        assert (found.name, found.origin) == ('audiocodec/small_24khz', {})
        assert found.path.name == 'small_24khz.safetensors'


def test_a_missing_source_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='no such file or folder'):
        open_source(tmp_path / 'nowhere.th')
