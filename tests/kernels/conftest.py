import pytest

from audiocodec.kernels import conv, narrow, winograd


@pytest.fixture
def fast_paths(monkeypatch):
    """Names of the fast algorithms that were used; Winograd is disabled."""
    used = set()

    def watch(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: used.add(name) or function(*args))

    watch(narrow, 'input_gradient')
    watch(conv, '_few_frame_weight_gradient')
    watch(winograd, 'convolve')
    watch(winograd, 'gradients')
    monkeypatch.setattr(winograd, 'IS_FASTER', False)
    return used
