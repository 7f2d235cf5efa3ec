"""The smallest recipe with everything on, for tests and the programs that they start."""

# An update takes milliseconds.
TINY = [
    'solver=compression/debug',
    'device=cpu',
    'num_threads=1',
    'adversarial=msstftd',
    'adversarial.discriminators.msstftd.filters=2',
    'adversarial.discriminators.msstftd.n_ffts=[256,128]',
    'adversarial.discriminators.msstftd.hop_lengths=[64,32]',
    'adversarial.discriminators.msstftd.win_lengths=[256,128]',
    'seanet.n_filters=2',
    'seanet.dimension=8',
    'rvq.n_q=2',
    'rvq.bins=16',
    'dataset.batch_size=4',
    'dataset.segment_duration=0.25',
    'dataset.num_workers=0',
    'optim.updates_per_epoch=4',
    'optim.epochs=1',
    'dataset.valid.num_samples=4',
    'evaluate.every=null',
    'generate.every=null',
    'logging.tensorboard=false',
    'logging.warn_guessing=0',  # discriminators guess for that few updates
]

# A run of two updates, with validation alone, of a recipe as it is.
SHORT = [
    'optim.updates_per_epoch=2',
    'dataset.batch_size=2',
    'dataset.segment_duration=0.5',
    'dataset.num_workers=0',
    'dataset.valid.num_samples=2',
    'evaluate.every=null',
    'generate.every=null',
]
