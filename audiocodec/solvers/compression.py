"""Solver that trains neural audio codecs with reconstruction and adversarial losses (EnCodec)."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from audiocodec.data import write_audio
from audiocodec.evaluation import Codec
from audiocodec.evaluation.stage import evaluate_batches
from audiocodec.losses import CodecLoss
from audiocodec.metrics import MetricSuite
from audiocodec.models import CodecOutput, CompressionModel, pretrained
from audiocodec.models.padded import by_length
from audiocodec.optim import ModuleEMA, advance
from audiocodec.optim.step import step_if
from audiocodec.recipe.describe import describe
from audiocodec.recipe.parts import Parts, check_on_device
from audiocodec.run.averager import Averager
from audiocodec.run.device import peak_memory
from audiocodec.solvers import finetune, precision
from audiocodec.solvers.base import StandardSolver
from audiocodec.solvers.health import (
    codebook_warning,
    discriminator_warning,
    guessing_warning,
)
from audiocodec.utils import config, distrib
from audiocodec.utils.eval_mode import eval_mode
from audiocodec.utils.paths import safe_stem


class CompressionSolver(StandardSolver):
    """Trains a `CompressionModel` as EnCodec does (arXiv 2210.13438, section 3.4).

    In one update, first the discriminators learn to tell reconstructions from original audio. Then
    the codec learns from its losses: the balancer combines those on the waveform, and the
    losses of the codec itself, such as the commitment loss, are added to its gradient.
    """

    model: CompressionModel

    def build(self, parts: Parts) -> None:
        """Take model, adversaries, losses and metrics; create optimizer, schedule and EMA."""
        cfg = self.cfg
        self.model = parts.model.to(self.device)
        self.adversaries = parts.adversaries.to(self.device)
        self.losses = parts.losses.to(self.device)
        self.balancer = parts.balancer.to(self.device)
        check_on_device(parts, cfg, self.device)
        discriminators = self.adversaries.discriminators
        # All workers start from the weights of the first.
        distrib.broadcast_(
            [
                *self.model.state_dict().values(),
                *discriminators.state_dict().values(),
                *parts.trained_on_output.state_dict().values(),
            ]
        )
        self.autocast = precision.autocast(cfg.precision.autocast, self.device)
        self.loss_scales = precision.prepare(cfg, self.model, self.adversaries, self.balancer)
        self.weights, self.trained = parts.weights, parts.trained
        self.trained_on_output = parts.trained_on_output
        if cfg.train.only is not None:
            only = cfg.train.only
            self.model.train_only([only] if isinstance(only, str) else only)
        parameters = [*self.model.parameters(), *self.trained_on_output.parameters()]
        self.parameters = [each for each in parameters if each.requires_grad]
        self.optimizer = config.build(cfg.optim.optimizer, params=self.parameters)
        self.schedule = config.build(cfg.optim.schedule)(self.optimizer)
        # Everything registered is saved in checkpoints and restored from them.
        self.register_stateful('model', 'adversaries', 'balancer', 'optimizer', 'schedule')
        if list(self.trained_on_output.parameters()):
            self.register_stateful('trained_on_output')
        if self.loss_scales.state_dict():
            self.register_stateful('loss_scales')
        self.ema: ModuleEMA | None = None
        if cfg.optim.ema.decay is not None:
            self.ema = ModuleEMA(self.model, **cfg.optim.ema)
            self.register_stateful('ema')
        self.metrics = MetricSuite(parts.metrics, self.failures)

    def prepare(self) -> bool:
        """Load checkpoint or initial weights, and remember the frozen weights."""
        resumed = super().prepare()
        self.frozen = {name: value.clone() for name, value in self.model.frozen_state().items()}
        return resumed

    # ---- one update ------------------------------------------------------------------------------

    def run_step(self, wav: torch.Tensor) -> dict[str, torch.Tensor]:
        """Update the discriminators and the model on one batch.

        Args:
            wav: float [B, C, T].

        Returns:
            Tensors on the device: losses and gradient norms, 0-d, and codebook statistics, [K].
            They are not read here: every update would wait for the GPU.
        """
        if self.adversaries.in_warmup:
            return self.warm_up_discriminators(wav)
        with self.autocast():
            out = self.model(wav)
            # The discriminators learn from this batch first; their detached input keeps their
            # gradient out of the model. Then the updated discriminators score the model.
            d_losses = self.adversaries.train_step(fake=out.wav.detach(), real=wav)
            adversarial = self.adversaries.generator_losses(out.wav, wav, self.balancer.sum_weights)
            losses = {**self.reconstruction_losses(out, wav), **adversarial}
            codec_losses = self.codec_losses(out, wav)
        # The balancer scales the gradients of these losses at the waveform, then sends their sum
        # back through the model. The codec's own losses, such as the commitment, do not depend on
        # the waveform alone, so their gradient joins unscaled, in the same backward pass.
        g_loss = self.balancer.backward(
            {name: loss for name, loss in losses.items() if name in self.balancer.weights},
            out.wav,
            extra_loss=self.weighted_sum(codec_losses),
            weight_factors=dict.fromkeys(adversarial, self.adversaries.warmup_weight),
        )
        update = self.update_model(g_loss, d_losses.get('d_grad_norm'))
        return {
            **self.as_metrics(losses),
            **self.untrained_losses(out, wav),
            **d_losses,
            **out.metrics,
            **self.balancer.metrics,
            **codec_losses,
            'bandwidth': out.bandwidth,
            **update,
        }

    def warm_up_discriminators(self, wav: torch.Tensor) -> dict[str, torch.Tensor]:
        """Update only the discriminators: new ones next to a trained model would wreck it."""
        with self.autocast():
            d_losses = self.adversaries.train_step(fake=self.frozen_reconstruction(wav), real=wav)
        self.updates += 1
        d_grad_norm = d_losses.get('d_grad_norm', wav.new_zeros(()))  # absent if they did not train
        scaling = self.loss_scales.update(None, d_grad_norm)
        return {**d_losses, 'skipped': ~d_grad_norm.isfinite(), **scaling}

    @torch.no_grad()
    def frozen_reconstruction(self, wav: torch.Tensor) -> torch.Tensor:
        """Reconstruct a waveform [B, C, T] without changing weights or statistics of the model."""
        with eval_mode(self.model):
            return self.model(wav).wav

    def reconstruction_losses(self, out: CodecOutput, wav: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the losses between reconstruction and original that train the model."""
        return {name: loss(out.wav, wav) for name, loss in self.trained.items()}

    def codec_losses(self, out: CodecOutput, wav: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the losses that do not depend on the waveform alone: beside the balancer."""
        own = {name: loss(out, wav) for name, loss in self.trained_on_output.items()}
        return {**out.losses, **own}

    def weighted_sum(self, codec_losses: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """Sum the codec's own losses with their weights; None if there are none."""
        weighted = [self.weights.get(name, 0.0) * loss for name, loss in codec_losses.items()]
        return torch.stack(weighted).sum() if len(weighted) > 1 else next(iter(weighted), None)

    @torch.no_grad()
    def untrained_losses(self, out: CodecOutput, wav: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the losses of weight 0, which are metrics only."""
        losses = {
            name: loss(out if isinstance(loss, CodecLoss) else out.wav, wav)
            for name, loss in self.losses.items()
            if self.weights[name] == 0
        }
        return self.as_metrics(losses)

    def as_metrics(self, losses: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Convert losses to the values in the log, e.g. a negated SI-SNR back to SI-SNR."""
        metrics = dict(losses)
        for name, loss in losses.items():
            convert = getattr(self.losses[name], 'reported', None) if name in self.losses else None
            if convert is not None:
                metrics[name] = convert(loss)
        return metrics

    def update_model(
        self, g_loss: torch.Tensor, d_grad_norm: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Average the gradient over the workers, clip it and step, if everything is finite.

        Args:
            g_loss: 0-d, the loss whose gradient the parameters hold.
            d_grad_norm: 0-d, norm of the discriminators' gradient in this update; None if they did
                not train.

        Returns:
            Loss averaged over the workers, gradient norm before clipping, whether the step was
            skipped, and the metrics of the loss scale.
        """
        distrib.average_gradients(self.parameters, beside=[g_loss])
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.loss_scales.model.unscale_(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.cfg.optim.max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.cfg.optim.max_norm, norm)
        ok = norm.isfinite() & g_loss.isfinite()
        if d_grad_norm is not None:
            # The discriminators skipped a step that was not finite; the model stays in step.
            ok = ok & d_grad_norm.isfinite()
        # The decision is made on the device: an `if` here would wait for the GPU.
        step_if(self.optimizer, ok)
        self.optimizer.zero_grad()
        advance(self.schedule)
        if self.ema is not None:
            self.ema.step()
        self.updates += 1
        scaling = self.loss_scales.update(norm, d_grad_norm, self.balancer.finite, g_loss)
        return {'g_loss': g_loss, 'grad_norm': norm, 'skipped': ~ok, **scaling}

    # ---- stages ----------------------------------------------------------------------------------

    def train(self) -> dict[str, float]:
        """Run one epoch of updates, or the rest of it after a resume."""
        self.model.train()
        begin = time.monotonic()
        before = self.updates
        for wav, infos in self.training_batches():
            metrics = self.run_step(wav.to(self.device, non_blocking=True))
            self.end_update(metrics, metrics.pop('skipped'), wav, infos)
        self.check_frozen()
        loader = self.dataloaders['train']
        # Read before the clock: reading waits until the device has finished.
        means = {
            **self.means.read(over_workers=True),
            **self.learning_rates(),
            **loader.bad_files.metrics(),
        }
        seconds = time.monotonic() - begin
        means['updates_per_second'] = (self.updates - before) / seconds
        means['data_wait'] = loader.wait_time / seconds
        peak = peak_memory(self.device)
        if peak is not None:
            means['peak_memory'] = peak
        self.warn(means)
        return means

    def check_frozen(self) -> None:
        """Compare the frozen parts with what they were at the start, bit by bit."""
        for name, value in self.model.frozen_state().items():
            assert torch.equal(value, self.frozen[name]), f'{name} has changed'
        if self.frozen:
            parts = sorted({name.partition('.')[0] for name in self.frozen})
            self.logger.info('unchanged, bit by bit: %s', ', '.join(parts))

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of the model, `lr`, and of any discriminators, `d_lr`."""
        rates = {'lr': self.optimizer.param_groups[0]['lr']}
        if self.adversaries.optimizer is not None:
            rates['d_lr'] = self.adversaries.optimizer.param_groups[0]['lr']
        return rates

    def logged_metrics(self, stage: str) -> list[str]:
        """Return those of `logging.metrics`, and all metrics of the evaluate stage."""
        names = super().logged_metrics(stage)
        if names and stage == 'evaluate':
            for name in self.metrics.metrics:
                names += [name, f'{name}_*']
        return names

    def higher_is_better(self, stage: str, metric: str) -> bool:
        """True if higher values are better, as metrics and losses declare it."""
        if stage == 'evaluate':
            return self.metrics.higher_is_better(metric)
        if metric in self.losses:
            return getattr(self.losses[metric], 'higher_is_better', False)
        # Codebook usage and the discriminators' accuracies.
        return re.search(r'usage|perplexity|_acc$', metric) is not None

    def warn(self, metrics: Mapping[str, float]) -> None:
        """Log warnings about codebook collapse and discriminators that win or guess."""
        history = [*(stages.get('train', {}) for stages in self.history), metrics]
        texts = [
            discriminator_warning(metrics, self.cfg.logging.warn_discriminator),
            guessing_warning(history, self.cfg.logging.warn_guessing),
        ]
        section = config.source_section(config.unresolved(self.cfg), 'model.quantizer')
        advice = self.model.unused_codes_advice.format(section=section)
        # the usage of frozen codebooks is that of an earlier training, if it is known at all
        if not any(name.startswith('quantizer.') for name in self.frozen):
            threshold = self.cfg.logging.warn_codebook_usage
            texts.append(codebook_warning(history, threshold, advice=advice))
        for text in texts:
            if text is not None and distrib.is_rank_zero():
                self.logger.warning('%s', text)

    def valid(self) -> dict[str, float]:
        """Compute the losses on the validation split."""
        averager = Averager()
        with self.averaged_model():
            for wav, _ in self.batches_of('valid', averager.read):
                losses = self.valid_step(wav.to(self.device, non_blocking=True))
                averager.update(losses, weight=wav.shape[0])  # the last batch may be smaller
        return averager.read(over_workers=True)

    @torch.no_grad()
    def valid_step(self, wav: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the losses of one batch, float [B, C, T], without an update."""
        with self.autocast():
            out = self.model(wav)
            losses = {
                **self.reconstruction_losses(out, wav),
                **self.adversaries.generator_losses(out.wav, wav),
            }
            codec_losses = self.codec_losses(out, wav)
        return {
            **self.as_metrics(losses),
            **self.untrained_losses(out, wav),
            **out.metrics,
            **codec_losses,
            'bandwidth': out.bandwidth,
        }

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Compute the metrics of `evaluate.metrics` over the evaluation split, at each rate."""
        options = self.cfg.evaluate
        # What scores depend on, apart from the weights.
        keys = ('metrics', 'datasource', 'dataset', 'output_sample_rate', 'channels')
        self.metrics.reset()
        with self.averaged_model():
            codec = Codec(self.xp.sig, self.model, options.kbps)
            evaluate_batches(
                codec,
                self.batches_of('evaluate'),
                self.metrics,
                self.folder / 'evaluate' / f'epoch_{self.epoch}',
                options.num_workers,
                named_rates=options.kbps is not None,
                settings={key: config.to_plain(self.cfg[key]) for key in keys},
            )
        means = self.metrics.compute()
        self.failures.sync()
        return means

    @torch.no_grad()
    def generate(self) -> dict[str, float]:
        """Write reference and reconstruction of every item of the generate split."""
        folder = self.folder / self.cfg.generate.path / f'epoch_{self.epoch}'
        items = written = 0
        with self.averaged_model():
            codec = Codec(self.xp.sig, self.model)
            for wav, infos in self.batches_of('generate'):
                with self.failures.caught('generating a batch'):
                    for group in by_length(wav, [info.n_frames for info in infos]):
                        (rendition,) = codec.reconstruct(group.wav, codec.sample_rate)
                        for number, place in enumerate(group.places):
                            info = infos[place]
                            name = f'{info.index:03d}_{safe_stem(info.meta.path)}'
                            pair = {
                                'reference': group.wav[number],
                                'reconstruction': rendition.wav[number],
                            }
                            self._track_pair(name, pair, items + place)
                            with self.failures.caught('writing a sample'):
                                self._write_pair(folder, name, pair)
                                written += 1
                items += len(infos)
        self.failures.sync()
        counts = torch.tensor(distrib.all_gather_object([written, items])).sum(0).tolist()
        self.logger.info('%d of %d samples written to %s', *counts, folder)
        return {}

    def _write_pair(self, folder: Path, name: str, pair: Mapping[str, torch.Tensor]) -> None:
        options = self.cfg.generate.audio
        for kind, wav in pair.items():
            write_audio(
                folder / f'{name}.{kind}.{options.format}',
                wav,
                self.model.output_sample_rate,
                strategy=options.strategy,
            )

    def _track_pair(self, name: str, pair: Mapping[str, torch.Tensor], number: int) -> None:
        if self.tracker is not None and number < self.cfg.logging.tensorboard_items:
            for kind, wav in pair.items():
                self.tracker.audio(
                    f'generate/{name}/{kind}',
                    wav,
                    self.model.output_sample_rate,
                    self.updates,
                    self.epoch,
                )

    @contextmanager
    def averaged_model(self) -> Iterator[None]:
        """Switch all parts to eval mode, and the model to its averaged (EMA) weights if kept."""
        averaged = self.ema.averaged() if self.ema is not None else nullcontext()
        with (
            eval_mode(self.model, self.adversaries, self.losses),
            precision.for_any_length(),
            averaged,
        ):
            yield

    # ---- weights from elsewhere ------------------------------------------------------------------

    def initialize_from(self, source: str) -> None:
        """Start from a trained model and the state of its training; see `finetune.start_from`."""
        trainee = finetune.Trainee(
            self.model, self.optimizer, self.adversaries, self.balancer, self.ema
        )
        for line in finetune.start_from(trainee, self.cfg, source):
            self.logger.info('%s', line)

    @staticmethod
    def model_from_checkpoint(
        source: str | Path, device: str | torch.device = 'cpu'
    ) -> CompressionModel:
        """Load the model of an experiment, ready for inference.

        Args:
            source: `//sig/SIG`, an experiment's folder, a training checkpoint or exported file, or
                `//pretrained/NAME`.
            device: device of the model.

        Raises:
            ValueError: no such experiment or file, or it cannot be read.
        """
        return pretrained.load(str(finetune.find_source(source)), device)

    # ---- description -----------------------------------------------------------------------------

    def show(self, brief: bool = False) -> str:
        """Describe the recipe: sizes, rates, latency, updates, hours; layers unless `brief`."""
        return describe(self.cfg, self.model, self.adversaries, brief)
