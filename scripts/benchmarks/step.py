"""The training update: `CompressionSolver.run_step` of a recipe, phase by phase, on noise."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import (
    Stopwatch,
    apart,
    in_turn,
    matrix_rate,
    memory_rate,
    peak_bytes,
    ratio,
    summary,
)
from benchmarks.dac_step import make_update

if TYPE_CHECKING:
    from audiocodec.solvers import CompressionSolver

HELP = 'one training update of a recipe, phase by phase'
DEFAULTS: dict[str, Any] = {}

# Methods that run_step calls and the phases they are, by part of the solver ('' is the solver
# itself). Further phases: model_forward, which includes quantizer_and_commitment, and optimizer.
# The gradients of the adversarial terms belong to generator_adversarial. The rest of `total` is
# clipping and bookkeeping.
PHASES = {
    'adversaries': {
        'train_step': 'discriminator_step',
        'generator_losses': 'generator_adversarial',
    },
    '': {'reconstruction_losses': 'spectral_losses', 'untrained_losses': 'metrics'},
    'balancer': {'backward': 'balancer_and_model_backward'},
    'ema': {'step': 'ema'},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the peer script, and further ones."""
    parser.add_argument(
        '--recipe', default='base_24khz', help='solver=compression/encodec_RECIPE, or another one'
    )
    parser.add_argument('--batch', type=int, default=4, help='items')
    parser.add_argument('--seconds', type=float, default=1.0, help='duration of each item')
    parser.add_argument(
        '--autocast', choices=('null', 'bfloat16'), default='null', help='as precision.autocast'
    )
    parser.add_argument(
        '--compile', choices=('true', 'false'), default='false', help='as the key `compile`'
    )
    parser.add_argument(
        '--descript',
        action='store_true',
        help='time the update of descript-audio-codec, too, in turn in its own process: with '
        '--recipe dac_44khz --batch 2 --seconds 0.38',
    )
    parser.add_argument(
        '--profile',
        metavar='FILE',
        type=Path,
        help='profile one more update, and write its operators, by their own time, to FILE',
    )
    parser.add_argument('overrides', nargs='*', help='overrides, such as optim.lr=1e-4')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time updates, then count the operations of one more and measure the machine's peak rate.

    Raises:
        ValueError: the configuration refuses an override or option.
    """
    import torch

    from audiocodec.run.averager import Averager

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    solver = _solver(args)
    shape = (args.batch, solver.model.channels, int(solver.model.sample_rate * args.seconds))
    averager = Averager()
    watch = Stopwatch(args.device)
    _time_phases(solver, watch)

    def update() -> None:
        wav = 0.1 * torch.randn(shape, device=solver.device)
        with watch.measure('total'):
            averager.update(solver.run_step(wav))

    ratios: dict[str, Any] = {}
    if args.descript:
        functions: dict[str, Callable[[], Any]] = {'ours': update}
        with apart(make_update, args) as functions['descript']:
            times = in_turn(functions, args.steps, args.warmup, args.device)
        watch.times.clear()
        ratios = {
            'peer': summary(times),
            'ratio': {'descript': ratio(times['descript'], times['ours'])},
        }
    for _ in watch.rounds(args.steps, args.warmup):
        update()
    result = {
        **ratios,
        **summary(watch.times),
        'peak_bytes': peak_bytes(args.device),
        'parameters': sum(parameter.numel() for parameter in solver.model.parameters()),
    }
    if args.profile is not None:
        _profile(update, args.profile)
    dtype = _matmul_dtype(solver)
    return {**result, **_utilization(update, result['ms']['total'], args.device, dtype)}


def _solver(args: argparse.Namespace) -> 'CompressionSolver':
    """Build the recipe's solver with initialized codebooks: k-means has its own benchmark."""
    from audiocodec import train
    from audiocodec.quantization.codebook import Codebooks

    names = [f'encodec_{args.recipe}', args.recipe]
    folder_of_recipes = Path(__file__).parents[2] / 'config' / 'solver' / 'compression'
    recipe = next(
        (name for name in names if (folder_of_recipes / f'{name}.yaml').is_file()), names[1]
    )
    with tempfile.TemporaryDirectory() as folder:
        xp = train.main.get_xp(
            [
                f'solver=compression/{recipe}',
                'dset=audio/example',
                f'device={args.device}',
                f'dora.dir={folder}',
                f'num_threads={args.threads}',
                f'precision.autocast={args.autocast}',
                f'compile={args.compile}',
                *args.overrides,
            ]
        )
        with xp.enter():
            solver = train.get_solver(xp.cfg)
    for codebooks in solver.model.modules():
        if isinstance(codebooks, Codebooks):
            codebooks.embed.normal_()
            codebooks.embed_avg.copy_(codebooks.embed * 10)
            codebooks.cluster_size.fill_(10.0)
            codebooks.inited.fill_(1)
    solver.model.train()
    return solver


def _time_phases(solver: 'CompressionSolver', watch: Stopwatch) -> None:
    """Wrap the methods of each phase to measure it."""

    def timed(method: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with watch.measure(phase):
                return method(*args, **kwargs)

        return call

    for name, phases in PHASES.items():
        part = getattr(solver, name) if name else solver
        for method, phase in phases.items():
            if part is not None:
                setattr(part, method, timed(getattr(part, method), phase))
    for module, phase in (
        (solver.model, 'model_forward'),
        (solver.model.quantizer, 'quantizer_and_commitment'),
    ):
        module.register_forward_pre_hook(lambda *_, phase=phase: watch.start(phase))
        module.register_forward_hook(lambda *_, phase=phase: watch.stop(phase))
    solver.optimizer.register_step_pre_hook(lambda *_: watch.start('optimizer'))
    solver.optimizer.register_step_post_hook(lambda *_: watch.stop('optimizer'))


def _matmul_dtype(solver: 'CompressionSolver') -> str:
    """Return the precision of most matrix products: half precision, TF32 or float32."""
    options = solver.cfg.precision
    if options.autocast is not None or solver.device.type == 'cpu':
        return options.autocast or 'float32'
    return str(options.conv)


def _utilization(
    update: Callable[[], None], milliseconds: float, device: str, dtype: str
) -> dict[str, Any]:
    """Return FLOPs and bytes of an update, the machine's peak rates, and the minimum times."""
    import torch

    rate = matrix_rate(device, dtype)
    bandwidth = memory_rate(device)
    with torch.compiler.set_stance('force_eager'):  # compiled code hides its operators
        work = count_work(update)
    floors = {'flops': 1000 * work['flops'] / rate, 'bytes': 1000 * work['bytes'] / bandwidth}
    return {
        'gflops': round(work['flops'] / 1e9, 2),
        'matrix_gflops_per_s': round(rate / 1e9, 1),
        'share_of_matrix_rate': round(floors['flops'] / milliseconds, 3),
        'gbytes': round(work['bytes'] / 1e9, 3),
        'memory_gbytes_per_s': round(bandwidth / 1e9, 1),
        'floor_ms': {name: round(value, 3) for name, value in floors.items()},
    }


def count_work(function: Callable[[], Any]) -> dict[str, int]:
    """Count FLOPs of matrix products and convolutions (without the LSTM), and bytes moved.

    Each operator is assumed to read its arguments from memory and write its results to memory once;
    views move nothing.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    total = {'flops': 0, 'bytes': 0}

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = function(*args, **(kwargs or {}))
            count = flop_registry.get(function.overloadpacket)
            if count is not None:
                total['flops'] += count(*args, **(kwargs or {}), out_val=out)
            if not function.is_view and not function.name().startswith(
                ('aten::empty', 'aten::detach')
            ):
                leaves = (
                    leaf
                    for leaf in tree_leaves((args, kwargs, out))
                    if isinstance(leaf, torch.Tensor)
                )
                tensors = {id(leaf): leaf.numel() * leaf.element_size() for leaf in leaves}
                total['bytes'] += sum(tensors.values())
            return out

    with Counter():
        function()
    return total


def _profile(update: Callable[[], None], path: Path) -> None:
    """Profile an update, and write its operators sorted by their own time, then by shape too."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True, acc_events=True) as profiler:
        update()
    key = 'self_cuda_time_total' if torch.cuda.is_available() else 'self_cpu_time_total'
    averages = profiler.key_averages(group_by_input_shape=True)
    path.write_text(
        profiler.key_averages().table(sort_by=key, row_limit=40)
        + '\n'
        + averages.table(sort_by=key, row_limit=40)
    )
