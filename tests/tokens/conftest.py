from pathlib import Path

import pytest
import soundfile
import torch
from items import tiny_model, write_items
from noise import noise

from audiocodec.tokens import make_tokens

SECONDS = (1.0, 0.31, 2.3, 0.31, 0.7, 1.5, 0.05)


def spread(model):
    """Place the entries of the codebooks near the latents, so that codes differ."""
    torch.manual_seed(1)
    with torch.no_grad():
        latents = model.encoder(0.1 * noise(1, 1, 8000))[0].T
    spread = latents.std(dim=0)
    for level, book in enumerate(model.quantizer.codebooks.embed):
        book.copy_(spread * 0.5**level * torch.randn_like(book))
    model.quantizer.codebooks.embed[0] += latents.mean(dim=0)
    return model


@pytest.fixture(scope='session')
def model():
    return spread(tiny_model())


@pytest.fixture(scope='session')
def audio(tmp_path_factory):
    """Recordings, two of the same length, and one that cannot be read."""
    folder = write_items(tmp_path_factory.mktemp('audio'), SECONDS)
    broken = noise(4000).numpy()
    broken[2000] = float('nan')
    soundfile.write(folder / 'item_3b.wav', broken, 8000, 'FLOAT')
    return folder


@pytest.fixture(scope='session')
def content():
    """Return the content of a folder of tokens by name, without the lock."""

    def read(folder):
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(Path(folder).rglob('*'))
            if path.is_file() and path.name != '.lock'
        }

    return read


@pytest.fixture(scope='session')
def make(model, audio):
    """Encode the recordings in shards of about two seconds."""

    def make(out, source=audio, **options):
        options = {'name': 'tiny', 'workers': 1, 'shard_minutes': 2 / 60, **options}
        return make_tokens(options.pop('model', model), source, out, **options)

    return make
