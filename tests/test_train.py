"""Functions of `audiocodec.train` that users call."""

import re
import runpy
import subprocess
import sys

import pytest

from audiocodec import train
from audiocodec.utils.config import ConfigError
from audiocodec.utils.errors import RunError


def test_an_unknown_signature_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(train.main.dora, 'dir', tmp_path)
    with pytest.raises(
        ConfigError, match=f"no experiment with signature 'abc' under {tmp_path}/xps"
    ):
        train.get_solver_from_sig('abc')


def test_an_unknown_override_of_a_solver_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(train.main.dora, 'dir', tmp_path)
    xp = train.main.get_xp(['solver=compression/debug'])
    with pytest.raises(
        ConfigError, match=r"no key 'dataset.bach_size'; did you mean 'dataset.batch_size'"
    ):
        train.get_solver_from_xp(xp, {'dataset': {'bach_size': 2}})


@pytest.mark.parametrize(
    'values',
    [{'dataset.batch_size': 3, 'optim.lr': 0.25}, {'dataset': {'batch_size': 3}, 'optim.lr': 0.25}],
)
def test_overrides_of_a_solver_may_be_dotted(tmp_path, values):
    xp = train.main.get_xp(['solver=compression/debug', f'dora.dir={tmp_path}', 'device=cpu'])
    solver = train.get_solver_from_xp(xp, values)
    assert (solver.cfg.dataset.batch_size, solver.cfg.optim.lr) == (3, 0.25)
    assert solver.optimizer.param_groups[0]['lr'] == 0.25


def test_an_unknown_solver_is_named_with_those_available(tmp_path):
    xp = train.main.get_xp(['solver=compression/debug', f'dora.dir={tmp_path}'])
    xp.cfg.solver = 'diffusion'
    with pytest.raises(
        ConfigError, match=r'^solver=diffusion: no such solver \(available: compression\)$'
    ):
        train.get_solver(xp.cfg)


def test_showing_a_recipe_needs_no_solver(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'audiocodec.solvers', None)  # an import of it would fail
    xp = train.main.get_xp(['solver=compression/debug', f'dora.dir={tmp_path}', 'show=true'])
    train.show(xp.cfg)
    printed = capsys.readouterr().out
    assert re.search(r'frame rate +50 Hz', printed)
    assert '280 in 14 epochs' in printed


def test_showing_a_recipe_does_not_import_the_compiler(tmp_path):
    """It would take a second: see `without_compiler`."""
    code = (
        'import sys; from audiocodec import train\n'
        f'train.show(train.main.get_xp(["solver=compression/debug", "dora.dir={tmp_path}"]).cfg)\n'
        'print("torch._dynamo" in sys.modules)'
    )
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert found.stdout.endswith('False\n')


def test_only_errors_that_a_user_can_fix_are_shown_without_traceback(capsys):
    for error in (ConfigError('seed=x'), RunError('disk full')):
        train.show_config_errors(type(error), error, None)
    assert capsys.readouterr().err == 'Error: seed=x\nError: disk full\n'
    train.show_config_errors(ValueError, ValueError('a bug'), None)
    assert capsys.readouterr().err == 'ValueError: a bug\n'


def test_spawned_processes_find_the_configuration():
    """Under `torchrun -m audiocodec.train`, multiprocessing runs the module by this name."""
    found = runpy.run_path(train.__file__, run_name='__mp_main__')
    assert found['main'].full_config_path == train.main.full_config_path
