import pytest

from audiocodec import train

# a model that takes milliseconds, with everything on
TINY = ['solver=compression/debug', 'device=cpu', 'num_threads=1', 'adversarial=msstftd',
        'adversarial.discriminators.msstftd.filters=2', 'adversarial.discriminators.msstftd.n_ffts=[256,128]',
        'adversarial.discriminators.msstftd.hop_lengths=[64,32]',
        'adversarial.discriminators.msstftd.win_lengths=[256,128]', 'seanet.n_filters=2', 'seanet.dimension=8',
        'rvq.n_q=2', 'rvq.bins=16', 'dataset.batch_size=4', 'dataset.segment_duration=0.25', 'dataset.num_workers=0',
        'optim.updates_per_epoch=4', 'optim.epochs=1', 'dataset.valid.num_samples=4', 'evaluate.every=null',
        'generate.every=null', 'logging.tensorboard=false']


@pytest.fixture
def make_solver(tmp_path):
    """Makes solvers within an experiment of their own: `make_solver('key=value', ..., base=[...])`."""
    entered = []

    def make(*overrides, base=TINY):
        xp = train.main.get_xp([*base, f'dora.dir={tmp_path}/xps', *overrides])
        train.main.init_xp(xp)
        context = xp.enter(stack=True)
        context.__enter__()
        entered.append(context)
        return train.get_solver(xp.cfg)

    yield make
    for context in reversed(entered):
        context.__exit__(None, None, None)
