"""The training update: `CompressionSolver.run_step` of a recipe, phase by phase, on noise."""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import common

if TYPE_CHECKING:

    from audiocodec.solvers import CompressionSolver

HELP = 'one training update of a recipe, phase by phase'

# What run_step calls on each part of the solver ('' is the solver itself), and the phase that it is. The commitment
# loss goes back through the encoder in the balancer's pass. What is left of `total` is clipping and bookkeeping.
PHASES = {'model': {'__call__': 'model_forward'},
          'adversaries': {'train_step': 'discriminator_step', 'generator_losses': 'generator_adversarial_forward'},
          '': {'reconstruction_losses': 'spectral_losses', 'reports': 'metrics'},
          'balancer': {'backward': 'balancer_and_model_backward'},
          'optimizer': {'step': 'optimizer'},
          'ema': {'step': 'ema'}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the peer script, and our own."""
    parser.add_argument('--recipe', default='base_24khz', help='solver=compression/encodec_RECIPE')
    parser.add_argument('--batch', type=int, default=4, help='items')
    parser.add_argument('--seconds', type=float, default=1., help='of audio in each item')
    parser.add_argument('--steps', type=int, default=5, help='updates that are timed')
    parser.add_argument('--warmup', type=int, default=1, help='updates before them')
    parser.add_argument('--profile', metavar='FILE', type=Path,
                        help='write there the operators of one more update, by their own time')
    parser.add_argument('overrides', nargs='*', help='of the configuration, such as optim.lr=1e-4')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time updates; then count the floating-point operations of one more, and measure the machine's rate.

    Raises:
        ValueError: an override or a figure that the configuration refuses.
    """
    import torch

    from audiocodec.utils.averager import Averager

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    solver = _solver(args)
    shape = (args.batch, solver.model.channels, int(solver.model.sample_rate * args.seconds))
    averager = Averager()
    watch = common.Stopwatch(args.device)
    _time_phases(solver, watch)

    def update() -> None:
        wav = 0.1 * torch.randn(shape, device=solver.device)
        with watch.measure('total'):
            averager.update(solver.run_step(wav))

    for step in range(args.warmup + args.steps):
        if step == args.warmup:
            watch.times.clear()
        update()
    result = {**watch.result(), 'recipe': args.recipe, 'batch': args.batch, 'seconds': args.seconds,
              'device': args.device, 'threads': args.threads, 'overrides': args.overrides,
              'parameters': sum(parameter.numel() for parameter in solver.model.parameters()),
              'peak_bytes': common.peak_bytes(args.device)}
    if args.profile is not None:
        _profile(update, args.profile)
    return {**result, **_share_of_machine(update, result['ms']['total'], args.device)}


def _solver(args: argparse.Namespace) -> 'CompressionSolver':
    """The recipe's own solver, past the initialisation of its codebooks: k-means is measured apart."""
    from audiocodec import train

    with tempfile.TemporaryDirectory() as folder:
        xp = train.main.get_xp([f'solver=compression/encodec_{args.recipe}', f'device={args.device}',
                                f'num_threads={args.threads}', f'dora.dir={folder}', *args.overrides])
        with xp.enter():
            solver = train.get_solver(xp.cfg)
    codebooks = solver.model.quantizer.codebooks
    codebooks.embed.normal_()
    codebooks.embed_avg.copy_(codebooks.embed * 10)
    codebooks.cluster_size.fill_(10.)
    codebooks.inited.fill_(1)
    solver.model.train()
    return solver


class _Timed:
    """Stands for a part of the solver, and times the calls of some of its methods."""

    def __init__(self, part: Any, names: Mapping[str, str], watch: common.Stopwatch) -> None:
        self._part, self._names, self._watch = part, names, watch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._watch.measure(self._names['__call__']):
            return self._part(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._part, name)
        return _Timed(value, {'__call__': self._names[name]}, self._watch) if name in self._names else value


def _time_phases(solver: 'CompressionSolver', watch: common.Stopwatch) -> None:
    for part, names in PHASES.items():
        if part:
            setattr(solver, part, _Timed(getattr(solver, part), names, watch))
            continue
        for name, phase in names.items():
            setattr(solver, name, _Timed(getattr(solver, name), {'__call__': phase}, watch))


def _share_of_machine(update: Any, milliseconds: float, device: str) -> dict[str, float]:
    """FLOPs of an update, the machine's rate at large matrix products, and the share of it that the update reaches."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        update()
    rate = common.matrix_rate(device)
    flops = counter.get_total_flops()
    return {'gflops': round(flops / 1e9, 2), 'matrix_gflops_per_s': round(rate / 1e9, 1),
            'share_of_matrix_rate': round(flops / rate / (milliseconds / 1000), 3)}


def _profile(update: Any, path: Path) -> None:
    """Where the time of an update goes: its operators by the time they take themselves, with their shapes."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=activities, record_shapes=True, profile_memory=True) as profiler:
        update()
    key = 'self_cuda_time_total' if torch.cuda.is_available() else 'self_cpu_time_total'
    averages = profiler.key_averages(group_by_input_shape=True)
    path.write_text(profiler.key_averages().table(sort_by=key, row_limit=40) + '\n'
                    + averages.table(sort_by=key, row_limit=40))
