import sys

import pytest

from audiocodec.utils.errors import InterruptedRunError, RunError, require


@pytest.mark.parametrize(('signal', 'code'), [(15, 143), (12, 140), (10, 138)])
def test_the_exit_code_of_an_interrupted_run_is_that_of_its_signal(signal, code):
    error = InterruptedRunError('stopped', signal)
    assert isinstance(error, RunError)
    assert str(error) == 'stopped'
    assert (error.signal, error.exit_code) == (signal, code)


def test_missing_and_broken_packages_are_named_with_their_extra(tmp_path, monkeypatch):
    (tmp_path / 'broken_package.py').write_text("raise ImportError('no library')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(
        ValueError,
        match=r'^PESQ needs onnx \(.*\), broken_package \(no library\): '
        r"pip install 'audiocodec\[metrics\]'$",
    ):
        require('PESQ', 'metrics', 'torch', 'onnx', 'broken_package')
