"""`transformers` next to other packages."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip('transformers')


@pytest.mark.parametrize('kind', ['OSError', 'ImportError', 'RuntimeError'])
def test_a_torchaudio_that_cannot_be_loaded_does_not_matter(tmp_path, kind):
    package = tmp_path / 'torchaudio'
    (package / 'part').mkdir(parents=True)
    (package / 'part' / '__init__.py').touch()
    (package / '__init__.py').write_text(
        f'import torchaudio.part\nraise {kind}("undefined symbol")\n'
    )
    code = (
        'import sys; from audiocodec.models.formats import hub; transformers = '
        'hub.import_transformers(); '
        'transformers.EncodecFeatureExtractor, transformers.MimiModel; '
        'print([name for name in sys.modules if name.startswith("torchaudio")])'
    )
    done = subprocess.run(
        [sys.executable, '-c', f'import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}'],
        capture_output=True,
        text=True,
    )
    if kind == 'RuntimeError':  # another fault than not fitting: shown as it is
        assert 'RuntimeError: undefined symbol' in done.stderr
    else:
        assert (done.returncode, done.stdout.strip()) == (0, '[]'), done.stderr
