"""Overrides as typed: unusual characters in paths, keys missing in the YAML files, deleted keys."""

import json

import pytest
from omegaconf import OmegaConf

from audiocodec import train
from audiocodec.recipe.overrides import read
from audiocodec.recipe.parts import build_parts
from audiocodec.utils import config, paths
from audiocodec.utils.config import ConfigError

DEBUG = 'solver=compression/debug'


def compose(*overrides):
    return train.main.get_xp([DEBUG, *overrides]).cfg


def problems(*overrides):
    with pytest.raises(ConfigError) as error:
        build_parts(compose(*overrides))
    return error.value.problems


LETTERS = [
    'música',
    '音',
    'a=b',
    'a,b',
    'R#1',
    'a & b',
    "it's",
    'say "x"',
    '(1)',
    '[x]',
    '[x',
    'a~b',
    'a!',
    'a;b',
    'x)',
    'a b',
    '+a',
    'a*',
    'a?',
    '50%',
    'a@b',
    'a$b',
    'a:b',
    'a\\b',
    '-a',
    '2024',
    '1e5',
    'true',
    '{a}',
    '{a: 1}',
    'range(1,3)',
    'naïve–“q”',
    '\N{GRINNING FACE}',
]


@pytest.fixture(scope='module')
def present():
    return config.unresolved(compose())


@pytest.mark.parametrize('name', LETTERS)
@pytest.mark.parametrize(
    'key',
    [
        'datasource.folder',
        'logging.wandb.name',
        'generate.path',
        'continue_from',
        'metrics.visqol_binary.bin',
    ],
)
def test_paths_and_names_are_taken_as_they_are_typed(present, key, name):
    assert read(f'{key}={name}', present).value == name
    assert read(f'{key}=/data/{name}', present).value == f'/data/{name}'


@pytest.mark.parametrize('name', LETTERS)
def test_what_is_stored_is_read_again_as_the_same_path(present, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored = read(f'datasource.train={name}', present).spelled()
    monkeypatch.chdir('/')
    assert read(stored, present).value == str(tmp_path / name)


@pytest.mark.parametrize('name', ['música', 'a=b, "x"', '~'])
def test_an_experiment_with_such_a_path_is_found_again(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = train.main.get_xp([DEBUG, f'datasource.train={name}'])
    monkeypatch.chdir('/')
    again = train.main.get_xp(json.loads(json.dumps(first.argv)))
    assert again.sig == first.sig
    assert again.cfg.datasource.train == str(paths.find(name) if name == '~' else tmp_path / name)


@pytest.mark.parametrize('name', LETTERS)
def test_a_grid_gives_the_same_values(present, name):
    (argument,) = train.main.value_to_argv({'datasource.folder': f'/data/{name}'})
    assert read(argument, present).value == f'/data/{name}'


def test_a_grid_takes_values_of_every_kind(present):
    values = {
        'optim.lr': 1e-3,
        'optim.max_norm': None,
        'rvq.q_dropout': False,
        'seanet.ratios': [8, 5],
        'seed': 3,
        'seanet.activation_params': {'alpha': 0.5},
        'seanet.norm': 'none',
        'seanet.pad_mode': 'é',
    }
    argv = train.main.value_to_argv([{'solver': 'compression/debug'}, values, 'optim.epochs=2'])
    assert argv[0] == 'solver=compression/debug'
    assert [read(argument, present).value for argument in argv[1:]] == [*values.values(), 2]


def test_null_and_quotes_keep_their_meaning():
    assert compose('datasource.folder=null').datasource.folder is None
    assert compose('datasource.folder="/data/a b"').datasource.folder == '/data/a b'
    assert compose("logging.wandb.name='null'").logging.wandb.name == 'null'


def test_strings_of_components_are_taken_literally_too():
    cfg = compose('metrics.visqol_binary.bin=/opt/vísqol, (1)', 'seanet.norm=none')
    assert cfg.metrics.visqol_binary.bin == '/opt/vísqol, (1)'
    assert cfg.seanet.norm == 'none'


@pytest.mark.parametrize(
    ('argument', 'expected'),
    [
        (
            'optim.lr=1e-3,2e-3',
            'optim.lr=1e-3,2e-3: a run takes one value per key; put a list in brackets',
        ),
        ('seed=[1', 'cannot be read: '),
        ('seanet.ratios=8,5', 'a run takes one value per key; put a list in brackets, [...]'),
        ('seanet.ratios=[8,é]', """If the value is a string, quote it: 'seanet.ratios="[8,é]"'"""),
        ('word', "override 'word': expected key=value, e.g. dataset.batch_size=16"),
    ],
)
def test_what_cannot_be_read_says_what_to_type(argument, expected):
    (found,) = problems(argument)
    assert expected in found
    assert 'multirun' not in found


@pytest.mark.slow
@pytest.mark.parametrize(
    ('argument', 'key', 'value'),
    [
        ('dataset.valid.segment_duration=2.0', 'dataset.valid.segment_duration', 2.0),
        ('dataset.evaluate.segment_duration=null', 'dataset.evaluate.segment_duration', None),
        ('dataset.valid.batch_size=4', 'dataset.valid.batch_size', 4),
        ('optim.optimizer.eps=1e-6', 'optim.optimizer.eps', 1e-6),
        ('model.segment_duration=1.0', 'model.segment_duration', 1.0),
        ('metrics.mel.n_fft=2048', 'metrics.mel.n_fft', 2048),
        ('losses.sisnr.overlap=0.25', 'losses.sisnr.overlap', 0.25),
        ('balancer.epsilon=1e-10', 'balancer.epsilon', 1e-10),
        ('adversarial.normalize=false', 'adversarial.normalize', False),
        ('optim.schedule.last_epoch=-1', 'optim.schedule.last_epoch', -1),
    ],
)
def test_an_argument_that_the_class_takes_needs_no_plus(argument, key, value):
    for typed in (argument, f'+{argument}', f'++{argument}'):
        cfg = compose(typed)
        build_parts(cfg)
        assert OmegaConf.select(cfg, key) == value


@pytest.mark.parametrize(
    ('argument', 'expected'),
    [
        (
            'optim.optimizer.epz=1',
            "there is no key 'optim.optimizer.epz'; did you mean 'optim.optimizer.eps'?",
        ),
        ('dataset.valid.bach_size=4', "there is no key 'dataset.valid.bach_size'; did you mean"),
        ('optim.lrr=1', "there is no key 'optim.lrr'; did you mean 'optim.lr'?"),
        ('autocast=bfloat16', "there is no key 'autocast'; did you mean 'precision.autocast'?"),
        (
            'adversarial.lr=1',
            "there is no key 'adversarial.lr'; did you mean 'adversarial.optimizer.lr'?",
        ),
        ('foo=1', "there is no key 'foo'"),
        ('+foo=1', "+foo=1: nothing reads the key 'foo'"),
        ('++foo.bar=1', "++foo.bar=1: nothing reads the key 'foo'"),
        ('+optim.lr=1', '+optim.lr=1: the key optim.lr exists; type optim.lr=1'),
        ('~optim.lrr', "there is no key 'optim.lrr'"),
        ('losses={}', 'losses={}: changes nothing'),
        ('rvq={}', 'rvq={}: changes nothing; set keys of the section, e.g. rvq.n_q=...'),
        ('seanet=3', "seanet=3: 'seanet' is a section"),
        ('model.encoder=null', "model.encoder=null: 'model.encoder' is a section"),
        ('model.quantizer={}', 'model.quantizer={}: changes nothing'),
        ('model.quantizer=abc', "model.quantizer=abc: 'model.quantizer' is a section"),
        (
            'losses.msspecc.weight=1',
            "there is no key 'losses.msspecc.weight'; did you mean 'losses.msspec.weight'?",
        ),
    ],
)
def test_keys_that_mean_nothing_are_refused(argument, expected):
    assert any(expected in problem for problem in problems(argument)), problems(argument)


def test_copies_of_a_section_can_be_set_on_their_own():
    cfg = compose('encoder.activation_params={}', 'encoder.norm_params=null')
    assert (cfg.encoder.activation_params, cfg.encoder.norm_params) == ({}, None)
    assert cfg.decoder.activation_params == {'alpha': 1.0}
    build_parts(cfg)
    assert cfg.model.encoder.activation_params == {}


def test_a_key_can_be_deleted():
    cfg = compose('~seanet.activation_params.alpha', '~losses.l2')
    build_parts(cfg)
    assert cfg.seanet.activation_params == {}
    assert 'l2' not in cfg.losses
    assert train.main.get_xp([DEBUG, '~losses.l1']).sig != train.main.get_xp([DEBUG]).sig


@pytest.mark.parametrize('sign', ['', '+', '++'])
def test_a_new_component_needs_no_plus(sign):
    cfg = compose(
        f'{sign}losses.smooth={{_target_: torch.nn.SmoothL1Loss, beta: 0.1, weight: 0.5}}'
    )
    build_parts(cfg)
    assert (cfg.losses.smooth.beta, cfg.losses.smooth.weight) == (0.1, 0.5)


def test_of_two_values_for_a_key_the_last_counts():
    assert compose('optim.lr=1', 'optim.lr=2').optim.lr == 2


def test_a_new_section_that_the_files_refer_to_may_be_added():
    cfg = compose('+mine.size=3', 'rvq.n_q=${mine.size}')
    assert cfg.rvq.n_q == 3


def test_an_override_is_read_as_hydra_reads_it(present):
    values = {
        argument: read(argument, present).value
        for argument in (
            'seed=3',
            'optim.lr=1e-3',
            'optim.max_norm=null',
            'rvq.q_dropout=true',
            'seanet.ratios=[8, 5]',
            'seanet.activation_params={alpha: 0.5}',
            'seanet.norm=none',
        )
    }
    assert list(values.values()) == [3, 1e-3, None, True, [8, 5], {'alpha': 0.5}, 'none']
