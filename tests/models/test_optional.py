import sys

import pytest

from audiocodec.models.optional import require


def test_missing_and_broken_packages_are_named_with_their_extra(tmp_path, monkeypatch):
    (tmp_path / 'broken_package.py').write_text("raise ImportError('no library')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(
        ValueError,
        match=r"^the format 'onnx' needs onnx \(.*\), broken_package \(no library\): "
        r"pip install 'audiocodec\[onnx\]'$",
    ):
        require('onnx', 'onnx', 'torch', 'onnx', 'broken_package')
