"""What each choice of `codec_24khz` is worth: docs/time_to_quality.md.

Five hundred updates of a small codec, each row with one choice of the recipe taken back; with three
seeds. On a CPU with two cores, a row takes five minutes, and half an hour with discriminators.

audiocodec grid compression.ablation             # here, without a cluster
audiocodec grid compression.ablation Muon        # the rows whose names contain `Muon`
dora grid compression.ablation                   # on a cluster

The recordings are the project's examples. For others, add to `bind_`: dset='audio/default' and
{'datasource.train': ..., 'datasource.valid': ...}.
"""

from dora import Launcher

from audiocodec.grid.table import CompressionExplorer

OFF = 1_000_000  # adversarial.start: no discriminators
SEEDS = (2036, 1, 2)


@CompressionExplorer
def explorer(launcher: Launcher) -> None:
    launcher.slurm_(gpus=1, cpus_per_gpu=2, mem_per_gpu=8, time=60)
    launcher.bind_(
        {
            'optim.updates_per_epoch': 20,
            'optim.epochs': 25,
            'valid.every': 2,
            'adversarial.start': OFF,
        },
        solver='compression/encodec_small_24khz',
    )
    adam = {'optim.lr': 3e-3}
    muon = {'optim.optimizer._target_': 'audiocodec.optim.Muon', 'optim.lr': 6e-3}
    init = {'seanet.init': 'scaled_residual'}
    share = {'optim.ema.share': 0.1}
    own = {**init, **share, **muon}
    published = {'seanet.init': 'default', 'optim.lr': 3e-4}
    with launcher.job_array():
        for seed in SEEDS:
            row = launcher.bind(seed=seed)
            row(own)
            row({**init, **share, **adam})
            row({**own, 'optim.lr': 3e-3})
            row({**own, 'optim.lr': 1e-2})
            row({**share, **muon, 'seanet.init': 'lecun_normal'})
            row({**init, **muon})
            row(own, schedule='cosine')
            row(own, schedule='warmup_stable_decay')
            row({**own, 'losses.l1.weight': 1.0})
            row({**own, 'adversarial.start': 250, 'adversarial.warmup': 50})
            row(published)
            row({**published, 'adversarial.start': 0})
