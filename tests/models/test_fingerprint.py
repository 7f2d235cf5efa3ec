import copy
import re

import torch

from audiocodec.models import pretrained
from audiocodec.models.export import export
from audiocodec.models.fingerprint import fingerprint


def test_it_is_of_the_weights(make, tmp_path):
    model = make('built')
    found = fingerprint(model)
    assert re.fullmatch('[0-9a-f]{16}', found)
    export(model, tmp_path / 'model.bin', 'compact')
    assert fingerprint(pretrained.load(str(tmp_path / 'model.bin'))) == found
    learned = copy.deepcopy(model)
    learned.quantizer.codebooks.cluster_size += 1  # a statistic of training
    assert fingerprint(learned) == found
    with torch.no_grad():
        learned.decoder.model[0].conv.conv.bias[0] += 1e-6
    assert fingerprint(learned) != found
