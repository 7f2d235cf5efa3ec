import pickle

import pytest
import torch

from audiocodec.utils import config
from audiocodec.utils.config import ConfigError, build, node_problems


def test_build_makes_nested_objects_and_leaves_out_the_weight():
    model = build(
        {
            '_target_': 'torch.nn.Sequential',
            '_args_': [{'_target_': 'torch.nn.Linear', 'in_features': 3, 'out_features': 4}],
            'weight': 2.0,
        }
    )
    assert isinstance(model[0], torch.nn.Linear)
    assert model[0].weight.shape == (4, 3)


def test_partial_gives_a_factory_and_runtime_arguments_are_passed():
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    optimizer = build({'_target_': 'torch.optim.Adam', 'lr': 0.5}, params=parameters)
    schedule = build(
        {
            '_target_': 'torch.optim.lr_scheduler.StepLR',
            '_partial_': True,
            'step_size': 1,
            'gamma': 0.1,
        }
    )
    stepped = schedule(optimizer)
    optimizer.step()
    stepped.step()
    assert optimizer.param_groups[0]['lr'] == pytest.approx(0.05)


def test_all_wrong_arguments_are_named_at_once_with_the_nearest():
    with pytest.raises(ConfigError) as error:
        build({'_target_': 'torch.nn.Linear', 'in_featurs': 3, 'bais': False})
    text = str(error.value)
    assert (
        "in_featurs=3: torch.nn.Linear has no argument 'in_featurs'; did you mean 'in_features'?"
        in text
    )
    assert "did you mean 'bias'?" in text
    assert 'out_features is missing' in text
    assert len(error.value.problems) == 4


def test_problems_carry_the_path_of_their_node():
    node = {'encoder': {'_target_': 'torch.nn.Linaer', 'x': 1}}
    assert node_problems(node, 'model') == [
        "model.encoder._target_: _target_ 'torch.nn.Linaer': torch.nn has no 'Linaer'; did you "
        "mean 'Linear'?"
    ]


@pytest.mark.parametrize(
    'target',
    [
        'os.system',
        'builtins.eval',
        'torch.load',
        'torch.nnx.Linear',
        'audiocodec.utils.config.os.system',
        'torch.nn.functional.torch.load',
        'torch.nn.functional.torch.hub.load',
        'torch.nn.functional.warnings.sys.exit',
        'audiocodec.run.checkpoint.Path.unlink',
        'audiocodec.models.encodec.nn.Linear.forward.__globals__.clear',
    ],
)
def test_what_is_not_allowed_is_not_called(target):
    with pytest.raises(ConfigError, match='not allowed'):
        build({'_target_': target})


def test_interpolations_cannot_bring_in_other_nodes(tmp_path):
    path = tmp_path / 'made'
    for text in (f'${{oc.create:{{_target_:os.mkdir,path:"{path}"}}}}', '${oc.env:HOME}'):
        with pytest.raises(
            ConfigError, match=r'_args_\[0\]=.*: expected a value, got an interpolation'
        ):
            build({'_target_': 'torch.nn.Sequential', '_args_': [text]})
    assert not path.exists()


def test_other_packages_can_be_opted_in(monkeypatch):
    monkeypatch.setattr(config, 'ALLOWED_PREFIXES', list(config.ALLOWED_PREFIXES))
    node = {'_target_': 'collections.OrderedDict'}
    advice = (
        r'to allow it, add allow_targets=\[collections\.\] to dora run, call '
        r'audiocodec\.utils\.config\.'
        r"allow_targets\('collections\.'\), or set AUDIOCODEC_ALLOW_TARGETS=collections\.$"
    )
    with pytest.raises(ConfigError, match=advice):
        build(node)
    with pytest.raises(ConfigError, match=f"'OrderedDict' belongs to collections; {advice}"):
        build({'_target_': 'audiocodec.recipe.experiment.OrderedDict'})
    config.allow_targets('collections.')
    assert build(node) == {}


def test_the_environment_opts_in(monkeypatch):
    monkeypatch.setenv('AUDIOCODEC_ALLOW_TARGETS', 'collections.')
    assert build({'_target_': 'collections.OrderedDict'}) == {}


def test_the_error_of_a_component_is_reported():
    with pytest.raises(ValueError, match='must be divisible by groups'):
        build(
            {
                '_target_': 'torch.nn.Conv1d',
                'in_channels': 3,
                'out_channels': 4,
                'kernel_size': 1,
                'groups': 2,
            }
        )


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('dataset.bach_size', "; did you mean 'dataset.batch_size'?"),
        ('lr', "; did you mean 'optim.lr'?"),
        ('batch_size', "; did you mean 'dataset.batch_size'?"),
        ('zzz', ''),
    ],
)
def test_nearest_name(name, hint):
    assert config.nearest(name, ['dataset.batch_size', 'optim.lr', 'seed']) == hint


def test_config_errors_cross_process_borders():
    error = pickle.loads(pickle.dumps(ConfigError(['a', 'b'])))
    assert error.problems == ['a', 'b']
    assert str(error) == '2 problems in the configuration:\n- a\n- b'


@pytest.mark.parametrize(
    ('target', 'message'),
    [
        (3, '_target_ 3: expected the dotted name of a class'),
        ('torch.nn.functional', 'is a module, expected a class or function'),
        ('audiocodec.models.export.nothing.at.all', "has no 'nothing'"),
    ],
)
def test_a_target_that_is_not_a_class_is_refused(target, message):
    (problem,) = node_problems({'_target_': target}, 'model')
    assert problem.startswith('model._target_: ')
    assert message in problem


def test_arguments_of_another_class_are_not_listed_one_by_one():
    node = {'_target_': 'torch.nn.L1Loss', 'a': 1, 'b': 2, 'c': 3, 'd': 4}
    assert node_problems(node, 'x') == [
        'x._target_=torch.nn.L1Loss has no arguments a, b, c, d; it takes size_average, reduce, '
        'reduction'
    ]


def test_arguments_that_are_passed_on_are_known():
    node = {
        '_target_': 'audiocodec.adversarial.MultiPeriodDiscriminator',
        'filters': 'x',
        'n_layer': 3,
    }
    assert node_problems(node, 'mpd') == [
        "mpd.filters='x': expected an integer",
        "mpd.n_layer=3: audiocodec.adversarial.MultiPeriodDiscriminator has no argument 'n_layer'; "
        'did you mean '
        "'n_layers'?",
    ]


@pytest.mark.parametrize(
    ('extra', 'problem'),
    [
        ({'_args_': 3}, 'x._args_=3: expected a list'),
        ({'_partial_': 'yes'}, "x._partial_='yes': expected true or false"),
        ({'_args_': [1, 2], 'in_features': 3}, 'x._args_=[1, 2]: in_features is given by name too'),
        ({'_args_': [1]}, 'x.out_features is missing: torch.nn.Linear needs it'),
        ({'_args_': [1, 2]}, None),
        ({'_partial_': True}, None),
    ],
)
def test_arguments_by_place(extra, problem):
    assert (
        node_problems({'_target_': 'torch.nn.Linear', **extra}, 'x') == []
        if problem is None
        else [problem]
    )


def test_every_part_that_cannot_be_built_is_reported_with_its_key():
    linear = {'_target_': 'torch.nn.Linear', 'in_features': 3, 'out_features': 4}
    node = {
        '_target_': 'torch.nn.ModuleDict',
        'modules': {
            'a': linear,
            'b': {**linear, 'out_features': -1},
            'c': {'_target_': 'audiocodec.losses.SISNR', 'segment': 0},
        },
    }
    with pytest.raises(ConfigError) as caught:
        build(node, 'parts')
    first, second = caught.value.problems
    assert first.startswith(
        'parts.modules.b: torch.nn.Linear does not work with in_features=3, out_features=-1'
    )
    assert second.startswith('parts.modules.c.segment must ')
    made = build({**node, 'modules': {'a': linear}, 'weight': 3.0})
    assert made['a'].weight.shape == (4, 3)


def test_valid_parts_of_an_invalid_node_are_built_too():
    node = {
        '_target_': 'torch.nn.Sequential',
        'first': {'_target_': 'audiocodec.losses.SISNR', 'segment': 0},
        '_args_': 3,
    }
    with pytest.raises(ConfigError) as caught:
        build(node, 'x')
    problems = caught.value.problems
    assert 'x._args_=3: expected a list' in problems
    assert problems[-1].startswith('x.first.segment must ')


def test_factories_take_arguments_from_the_caller():
    node = {'_target_': 'torch.nn.Linear', '_partial_': True, 'in_features': 3}
    assert build(node, out_features=4)().out_features == 4


def test_a_weight_inside_a_component_is_its_argument():
    node = {
        '_target_': 'torch.nn.Sequential',
        '_args_': [{'_target_': 'torch.nn.ReLU', 'weight': 3}],
        'weight': 1.0,
    }
    assert node_problems(node) == ["_args_[0].weight=3: torch.nn.ReLU has no argument 'weight'"]
