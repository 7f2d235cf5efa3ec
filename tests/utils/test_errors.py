import pytest

from audiocodec.utils.errors import InterruptedRunError, RunError


@pytest.mark.parametrize(('signal', 'code'), [(15, 143), (12, 140), (10, 138)])
def test_the_exit_code_of_an_interrupted_run_is_that_of_its_signal(signal, code):
    error = InterruptedRunError('stopped', signal)
    assert isinstance(error, RunError)
    assert str(error) == 'stopped'
    assert (error.signal, error.exit_code) == (signal, code)
