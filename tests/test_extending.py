"""The examples of docs/extending.md, trained as a user would, and the mistakes that one makes."""

import os
import re
import sys
from pathlib import Path

import forked
import pytest
import torch

from audiocodec import train
from audiocodec.recipe.parts import build_parts
from audiocodec.utils import config
from audiocodec.utils.config import ConfigError

PAGE = (Path(__file__).parents[1] / 'docs' / 'extending.md').read_text()
SHORT = [
    'device=cpu',
    'num_threads=1',
    'optim.epochs=1',
    'optim.updates_per_epoch=2',
    'dataset.batch_size=2',
    'dataset.segment_duration=0.25',
    'dataset.num_workers=0',
    'dataset.valid.num_samples=2',
    'dataset.evaluate.num_samples=2',
    'generate.every=null',
    'seanet.n_filters=2',
]


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', PAGE, re.S | re.M)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with the page's module and recipe."""
    folder = tmp_path_factory.mktemp('extending')
    (folder / 'mycodec.py').write_text('\n\n'.join(blocks('python')))
    recipe = folder / 'config' / 'solver' / 'compression' / 'mine.yaml'
    recipe.parent.mkdir(parents=True)
    recipe.write_text(blocks('yaml')[0])
    return folder


COMMANDS = [line for block in blocks('bash') for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize('number', range(len(COMMANDS)))
def test_command(number, place):
    root = str(Path(__file__).parents[1])
    done = forked.shell(
        COMMANDS[number].replace(' solver', f' {" ".join(SHORT)} solver', 1),
        place,
        {
            **os.environ,
            'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
            'PYTHONPATH': os.pathsep.join([root, str(place)]),
            'DORA_PACKAGE': 'audiocodec',
            'AUDIOCODEC_DORA_DIR': str(place / 'outputs'),
            'OMP_NUM_THREADS': '1',
        },
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if 'centroid' in COMMANDS[number] or 'mine' in COMMANDS[number]:
        assert '  centroid ' in done.stderr
    if 'mine' in COMMANDS[number]:
        assert '  logcosh ' in done.stderr
        assert '  codebook_usage ' in done.stderr


@pytest.fixture
def mycodec(place, tmp_path, monkeypatch):
    """The page's module with further classes; composes with overrides and returns the problems."""

    def problems(classes, *overrides):
        (tmp_path / 'mine.py').write_text((place / 'mycodec.py').read_text() + '\n\n' + classes)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(config, 'ALLOWED_PREFIXES', list(config.ALLOWED_PREFIXES))
        sys.modules.pop('mine', None)
        argv = ['solver=compression/debug', *SHORT, 'allow_targets=[mine.]', *overrides]
        xp = train.main.get_xp([*argv, f'dora.dir={tmp_path}/xps'])
        try:
            with xp.enter():
                train.get_solver(xp.cfg)
        except ConfigError as error:
            return error.problems
        return []

    return problems


FSQ = ('quantizer._target_=mine.Wrong', 'quantizer.levels=[5,5,5]')


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        ('', []),
        ('return tuple(found)', 'forward must return audiocodec.quantization.QuantizedResult'),
        ('return found._replace(latents=found.latents.detach())', 'that pass the gradient on'),
        (
            'return found._replace(losses={"energy": latents[:, 0, 0]})',
            'energy must be a 0-d',
        ),
        ('return found._replace(losses={"energy": 0.0})', 'energy must be a 0-d'),
        ('return found._replace(losses={})', "those of loss_terms=('energy',), it returned []"),
        ('return found._replace(codes=found.codes.float())', 'forward must give codes int64'),
        ('return found._replace(latents=found.latents[:, :3])', 'into [2, 3, 7]'),
    ],
)
def test_a_quantizer_is_checked_before_training(mycodec, change, expected):
    body = f'        {change}\n' if change else ''
    classes = (
        'class Wrong(FSQ):\n'
        "    loss_terms = ('energy',)\n"
        '    def forward(self, latents, frame_rate):\n'
        '        found = super().forward(latents, frame_rate)\n'
        '        found = found._replace(losses={"energy": latents.square().mean()})\n'
        f'{body}        return found\n'
    )
    found = mycodec(classes, *FSQ, '+losses.energy.weight=0.1')
    if not expected:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith('quantizer: ')
        assert expected in found[0]


@pytest.mark.parametrize(
    ('body', 'expected'),
    [
        ('return (wav_hat - wav).abs().mean(2)', 'it returned the shape [2, 1]'),
        ('return 0.5', 'it returned float'),
        ('raise KeyError("x")', "'x'"),
    ],
)
def test_a_loss_is_checked_before_training(mycodec, body, expected):
    classes = f'class Wrong(nn.Module):\n    def forward(self, wav_hat, wav):\n        {body}\n'
    (found,) = mycodec(classes, 'losses.wrong={_target_: mine.Wrong, weight: 1.0}')
    assert found.startswith('losses.wrong: mine.Wrong does not work with')
    assert expected in found


def test_a_loss_of_the_quantizer_needs_a_weight(mycodec):
    classes = 'class Wrong(FSQ):\n    loss_terms = ("energy",)\n'
    (found,) = mycodec(classes, *FSQ)
    assert found == (
        'losses.energy.weight is missing: the model has this loss; add it with '
        '+losses.energy.weight=1.0, or 0 to report it only'
    )


def test_a_loss_that_nothing_computes_is_reported(mycodec):
    (found,) = mycodec('', '+losses.l3.weight=1.0')
    assert found.startswith('losses.l3: a loss needs a _target_, the class that computes it')
    assert found.endswith('the model itself computes commitment')


def test_a_loss_on_the_whole_output_is_trained_beside_the_balancer(mycodec, place, tmp_path):
    classes = (
        'from audiocodec.losses import CodecLoss\n'
        'class Smooth(CodecLoss):\n'
        '    def __init__(self):\n'
        '        super().__init__()\n'
        '        self.scale = nn.Parameter(torch.ones(()))\n'
        '    def forward(self, output, wav):\n'
        '        return (self.scale * output.latents.diff()).square().mean()\n'
    )
    overrides = ['losses.smooth={_target_: mine.Smooth, weight: 0.5}', *SHORT]
    assert mycodec(classes, overrides[0]) == []
    argv = ['solver=compression/debug', *overrides, 'allow_targets=[mine.]']
    xp = train.main.get_xp([*argv, f'dora.dir={tmp_path}/xps'])
    with xp.enter():
        solver = train.get_solver(xp.cfg)
        assert 'smooth' not in solver.balancer.weights
        solver.model.train()
        metrics = solver.run_step(0.1 * torch.randn(2, 1, 4000))
        assert {'smooth', 'commitment'} <= metrics.keys()
        after = solver.trained_on_output['smooth'].scale
        assert after != 1  # its own parameters are trained
        assert torch.equal(solver.state_dict()['trained_on_output']['smooth.scale'], after)
    mistake = classes.replace('.mean()', '.mean((1, 2))')
    (found,) = mycodec(mistake, 'losses.smooth={_target_: mine.Smooth, weight: 0.5}')
    assert 'called as loss(output, wav), a CodecLoss must return a 0-d tensor' in found


def test_a_metric_without_a_switch_is_reported(mycodec):
    (found,) = mycodec('', 'metrics.centroid={_target_: mine.SpectralCentroid}')
    assert (
        found == 'metrics.centroid: is not switched on or off; add evaluate.metrics.centroid=true'
    )


def test_classes_are_known_while_overrides_are_checked(tmp_path, place, monkeypatch):
    """The arguments of a class replaced are dropped, its own are accepted, whoever allows it."""
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr(config, 'ALLOWED_PREFIXES', list(config.ALLOWED_PREFIXES))
    overrides = ['quantizer._target_=mycodec.FSQ', 'quantizer.levels=[3]', 'losses.logcosh.scale=3']
    loss = 'losses.logcosh={_target_: mycodec.LogCosh, weight: 1.0}'
    cfg = train.main.get_xp(
        ['solver=compression/debug', loss, *overrides, 'allow_targets=[mycodec.]']
    ).cfg
    assert dict(cfg.quantizer) == {'_target_': 'mycodec.FSQ', 'dimension': 32, 'levels': [3]}
    assert cfg.losses.logcosh.scale == 3
    assert build_parts(cfg).model.cardinality == 3
