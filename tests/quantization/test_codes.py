import numpy as np
import pytest
import torch

from audiocodec.quantization import check_codes

CPU = torch.device('cpu')
CODES = [[[0, 31, 7], [5, 5, 5]], [[1, 2, 3], [30, 0, 9]]]


def check(codes):
    return check_codes(codes, codebooks=4, cardinality=32, device=CPU)


@pytest.mark.parametrize('kind', ['int8', 'int16', 'int32', 'uint8', 'uint16', 'uint32', 'uint64'])
def test_codes_of_every_integer_type_become_int64(kind):
    for codes in (torch.tensor(CODES).to(getattr(torch, kind)), np.array(CODES, dtype=kind)):
        checked = check(codes)
        assert checked.dtype == torch.int64
        assert checked.tolist() == CODES
    with pytest.raises(ValueError, match=r'^codes range from 32 to 32: expected 0 to 31$'):
        check(torch.full((1, 1, 3), 32).to(getattr(torch, kind)))
    with pytest.raises(ValueError, match='codes are on meta and the model on cpu'):
        check(torch.tensor(CODES).to(getattr(torch, kind)).to('meta'))


def test_big_endian_arrays_are_converted():
    assert check(np.array(CODES, dtype='>i4')).tolist() == CODES


def test_values_beyond_int64_are_named():
    with pytest.raises(ValueError, match=f'codes range from 0 to {2**63}: expected 0 to 31'):
        check(np.array([[[0, 2**63]]], dtype=np.uint64))


def test_negative_codes_are_refused():
    with pytest.raises(ValueError, match='codes range from -1 to 3: expected 0 to 31'):
        check(torch.tensor([[[-1, 3]]]))


@pytest.mark.parametrize('shape', [(0, 2, 5), (2, 1, 0)])
def test_batches_may_be_empty(shape):
    assert check(torch.zeros(shape, dtype=torch.int32)).shape == shape


@pytest.mark.parametrize('shape', [(4, 5, 50), (4, 0, 50), (4, 50)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match='K from 1 to 4'):
        check(torch.zeros(shape, dtype=torch.int64))


def test_other_types_are_refused():
    with pytest.raises(ValueError, match=r'codes have type torch.float32: expected integers'):
        check(torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match='codes have type float64: expected integers'):
        check(np.zeros((1, 1, 3)))
    with pytest.raises(ValueError, match=r'codes are a list: .* torch.tensor\(codes\)'):
        check(CODES)


def test_continuous_autoencoders_have_no_codes():
    with pytest.raises(ValueError, match='a continuous autoencoder: it has latents but no codes'):
        check_codes(torch.tensor(CODES), codebooks=0, cardinality=0, device=CPU)
