import pytest
import torch

from audiocodec.tokens import delay, flatten, undelay, unflatten


def codes_of(*shape):
    torch.manual_seed(0)
    return torch.randint(16, shape)


def test_each_codebook_is_a_frame_later_than_the_one_before():
    codes = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    expected = torch.tensor([[1, 2, 3, 0, 0], [0, 4, 5, 6, 0], [0, 0, 7, 8, 9]])
    assert torch.equal(delay(codes), expected)
    assert torch.equal(delay(codes, [0, 2, 2], fill=16)[1], torch.tensor([16, 16, 4, 5, 6]))


@pytest.mark.parametrize('delays', [None, [0, 0, 0, 0], [0, 1, 1, 1], [3, 0, 7, 2]])
@pytest.mark.parametrize('shape', [(4, 1), (4, 9), (2, 4, 9), (5, 2, 4, 3)])
def test_undelay_is_the_inverse(delays, shape):
    codes = codes_of(*shape)
    steps = delay(codes, delays, fill=-1)
    assert steps.shape[-1] == shape[-1] + max(delays or [3])
    assert (steps == -1).sum() == max(delays or [3]) * codes.numel() / shape[-1]
    assert torch.equal(undelay(steps, delays), codes)


def test_steps_are_those_of_musicgen():
    """`transformers` has a step of fill before the first."""
    transformers = pytest.importorskip('transformers')
    config = transformers.MusicgenDecoderConfig(
        vocab_size=16,
        num_hidden_layers=1,
        ffn_dim=8,
        num_attention_heads=1,
        hidden_size=8,
        num_codebooks=4,
    )
    model = transformers.MusicgenForCausalLM(config)
    codes, fill = codes_of(4, 9), 16
    start = torch.full((4, 1), fill)
    _, mask = model.build_delay_pattern_mask(start, pad_token_id=fill, max_length=1 + 9 + 3)
    steps = torch.cat([start, delay(codes, fill=fill)], dim=1)
    free = mask == -1
    assert torch.equal(model.apply_delay_pattern_mask(steps, mask), steps)
    assert torch.equal(steps[free], codes.flatten())
    assert (steps[~free] == fill).all()


def test_frames_are_written_one_after_the_other():
    codes = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert flatten(codes).tolist() == [1, 4, 2, 5, 3, 6]
    assert flatten(codes, 16).tolist() == [1, 20, 2, 21, 3, 22]


@pytest.mark.parametrize('cardinality', [None, 16])
@pytest.mark.parametrize('shape', [(1, 5), (4, 9), (2, 4, 9)])
def test_unflatten_is_the_inverse(cardinality, shape):
    codes = codes_of(*shape)
    tokens = flatten(codes, cardinality)
    assert tokens.shape == (*shape[:-2], shape[-1] * shape[-2])
    assert torch.equal(unflatten(tokens, shape[-2], cardinality), codes)


def test_what_is_not_an_arrangement_is_refused():
    codes = codes_of(4, 2)
    with pytest.raises(ValueError, match=r'delays=\[0, 1\]: expected 4 numbers'):
        delay(codes, [0, 1])
    with pytest.raises(ValueError, match=r'delays=\[0, 1, 2, -1\]: expected'):
        undelay(codes, [0, 1, 2, -1])
    with pytest.raises(ValueError, match=r'2 steps have no frame with a delay of 3: .* least 4'):
        undelay(codes)
    with pytest.raises(ValueError, match='7 tokens are not whole frames of 4 codebooks'):
        unflatten(torch.zeros(7, dtype=torch.int64), 4)
    with pytest.raises(ValueError, match=r'range from -16 to 0'):
        unflatten(torch.tensor([0, 0]), 2, 16)
