import torch

from audiocodec.evaluation.systems import fit


def test_fit_cuts_and_pads_at_the_end():
    wav = torch.ones(2, 3)
    assert fit(wav, 2).tolist() == [[1, 1]] * 2
    assert fit(wav, 5).tolist() == [[1, 1, 1, 0, 0]] * 2
