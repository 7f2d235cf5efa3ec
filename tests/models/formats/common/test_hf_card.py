import pytest

from audiocodec.models.formats.common.hf_card import model_card


@pytest.mark.parametrize(
    ('recipe', 'lines'),
    [
        (
            'mono',
            [
                '# EnCodec, 8 kHz mono',
                '| sample rate | 8000 Hz |',
                '| channels | 1 |',
                '| frame rate | 50 Hz |',
                '| codebooks | 4 of 32 entries |',
                '| bandwidths | 0.5, 1 kbps |',
                'audio = np.zeros(24000, dtype=np.float32)',
                '# floats in [-1, 1]',
            ],
        ),
        (
            'stereo',
            [
                '# EnCodec, 8 kHz stereo',
                '| channels | 2 |',
                'audio = np.zeros((2, 24000), dtype=np.float32)',
                '# floats in [-1, 1] with two channels, [2, samples]',
            ],
        ),
    ],
)
def test_the_card_has_the_properties_of_the_model(make_codec, recipe, lines):
    card = model_card(make_codec(recipe), [0.5, 1.0], 'It is from a test.')
    found = card.splitlines()
    assert [line for line in lines if line not in found] == []
    assert card.startswith('---\nlibrary_name: transformers\n')
    assert 'exported for `transformers`. It is from a test.' in card
    assert 'bandwidth=1.0)' in card
