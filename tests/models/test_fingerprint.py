import copy

import torch

from audiocodec.models import pretrained
from audiocodec.models.export import export
from audiocodec.models.fingerprint import fingerprint


def test_it_is_of_the_weights(make, tmp_path):
    model = make('built')
    found = fingerprint(model)
    assert len(found) == len(f'{int(found, 16):016x}')
    export(model, tmp_path / 'model.bin', 'compact')
    assert fingerprint(pretrained.load(str(tmp_path / 'model.bin'))) == found
    learned = copy.deepcopy(model)
    learned.quantizer.codebooks.cluster_size += 1  # a statistic of training
    assert fingerprint(learned) == found
    with torch.no_grad():
        learned.decoder.model[0].conv.conv.bias[0] += 1e-6
    assert fingerprint(learned) != found
