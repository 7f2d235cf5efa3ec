"""The solver that trains neural audio codecs: reconstruction losses, adversaries, balancer,
commitment (EnCodec).
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from audiocodec.data import write_audio
from audiocodec.metrics import MetricSuite
from audiocodec.models import CompressionModel, pretrained
from audiocodec.optim import ModuleEMA, advance
from audiocodec.optim.step import step_if
from audiocodec.recipe.describe import describe
from audiocodec.recipe.parts import Parts
from audiocodec.run.averager import Averager
from audiocodec.run.device import peak_memory
from audiocodec.solvers import finetune, precision
from audiocodec.solvers.base import StandardSolver
from audiocodec.solvers.health import codebook_warning, discriminator_warning
from audiocodec.utils import config, distrib
from audiocodec.utils.eval_mode import eval_mode
from audiocodec.utils.paths import safe_stem


class CompressionSolver(StandardSolver):
    """Trains a `CompressionModel` as EnCodec does (arXiv 2210.13438, section 3.4).

    One update: the discriminators learn to tell the codec's output from the real audio; the
    generator's losses, each a function of the waveform, meet in the balancer; the commitment loss
    alone reaches the encoder directly.
    """

    model: CompressionModel

    def build(self, parts: Parts) -> None:
        """Take model, adversaries, losses and metrics; make optimizer, schedule and EMA."""
        cfg = self.cfg
        self.model = parts.model.to(self.device)
        self.adversaries = parts.adversaries.to(self.device)
        discriminators = self.adversaries.discriminators
        distrib.broadcast_(
            [*self.model.state_dict().values(), *discriminators.state_dict().values()]
        )
        self.autocast = precision.autocast(cfg.precision.autocast, self.device)
        if cfg.compile:
            precision.compile_parts(self.model, self.adversaries)
        self.losses = parts.losses.to(self.device)
        self.trained = parts.trained
        self.commitment_weight = parts.weights.get('commitment', 0.0)
        self.balancer = parts.balancer.to(self.device)
        self.optimizer = config.build(cfg.optim.optimizer, params=list(self.model.parameters()))
        self.schedule = config.build(cfg.optim.schedule)(self.optimizer)
        self.register_stateful('model', 'adversaries', 'balancer', 'optimizer', 'schedule')
        self.ema = self._new_ema()
        if self.ema is not None:
            self.register_stateful('ema')
        self.metrics = MetricSuite(parts.metrics, self.failures)

    def _new_ema(self) -> ModuleEMA | None:
        options = self.cfg.optim.ema
        if options.decay is None:
            return None
        return ModuleEMA(self.model, decay=options.decay, every=options.every)

    # ---- one update ------------------------------------------------------------------------------

    def run_step(self, wav: torch.Tensor) -> dict[str, torch.Tensor]:
        """One update of the discriminators and of the model.

        Args:
            wav: float [B, C, T].

        Returns:
            0-d tensors on the device: every loss, the codebooks' use, gradient norms.
        """
        if self.adversaries.in_warmup:
            return self.catch_up(wav)
        with self.autocast():
            out = self.model(wav)
            d_losses = self.adversaries.train_step(fake=out.wav.detach(), real=wav)
            adversarial = self.adversaries.generator_losses(out.wav, wav)
            losses = {**self.reconstruction_losses(out.wav, wav), **adversarial}
        # The commitment loss is the one term that does not pass through wav_hat.
        balanced = {name: loss for name, loss in losses.items() if name in self.balancer.weights}
        g_loss = self.balancer.backward(
            balanced,
            out.wav,
            extra_loss=self.commitment_weight * out.commitment_loss,
            weight_factors=dict.fromkeys(adversarial, self.adversaries.warmup_weight),
        )
        update = self.update_model(g_loss, d_losses.get('d_grad_norm'))
        return {
            **self.reported(losses),
            **self.reports(out.wav, wav),
            **d_losses,
            **out.metrics,
            **self.balancer.metrics,
            'commitment': out.commitment_loss,
            'bandwidth': out.bandwidth,
            **update,
        }

    def catch_up(self, wav: torch.Tensor) -> dict[str, torch.Tensor]:
        """One update of discriminators that are fresh beside a trained model, which stands still
        meanwhile.
        """
        with self.autocast():
            d_losses = self.adversaries.train_step(fake=self.still_wav(wav), real=wav)
        self.updates += 1
        return {**d_losses, 'skipped': ~d_losses.get('d_grad_norm', wav.new_zeros(())).isfinite()}

    @torch.no_grad()
    def still_wav(self, wav: torch.Tensor) -> torch.Tensor:
        """Reconstruct a waveform [B, C, T] without moving any weight or statistic of the model."""
        with eval_mode(self.model):
            return self.model(wav).wav

    def reconstruction_losses(
        self, wav_hat: torch.Tensor, wav: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The losses that are trained, as functions of the reconstruction."""
        return {name: self.losses[name](wav_hat, wav) for name in self.trained}

    @torch.no_grad()
    def reports(self, wav_hat: torch.Tensor, wav: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses of weight 0, which are only watched."""
        return self.reported(
            {
                name: loss(wav_hat, wav)
                for name, loss in self.losses.items()
                if name not in self.trained
            }
        )

    def reported(self, losses: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Losses as they are logged: a loss may say so itself, as SI-SNR does, whose loss is
        negated.
        """
        return {
            name: getattr(self.losses[name], 'reported', _same)(value)
            if name in self.losses
            else value
            for name, value in losses.items()
        }

    def update_model(
        self, g_loss: torch.Tensor, d_grad_norm: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Average the gradient over the workers, clip it, and step, unless something is not finite.

        Args:
            g_loss: 0-d, the loss whose gradient the parameters have.
            d_grad_norm: 0-d, of the discriminators' gradient in the same update: where it is not
                finite, they were left as they are, and so is the model. None if they did not train.

        Returns:
            The loss averaged over the workers, the gradient's norm before clipping, and whether the
            step was left out.
        """
        parameters = list(self.model.parameters())
        distrib.average_gradients(parameters, beside=[g_loss])
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.cfg.optim.max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.cfg.optim.max_norm, norm)
        ok = norm.isfinite() & g_loss.isfinite()
        if d_grad_norm is not None:
            ok = ok & d_grad_norm.isfinite()
        step_if(self.optimizer, ok)
        self.optimizer.zero_grad()
        advance(self.schedule)
        if self.ema is not None:
            self.ema.step()
        self.updates += 1
        return {'g_loss': g_loss, 'grad_norm': norm, 'skipped': ~ok}

    # ---- stages ----------------------------------------------------------------------------------

    def train(self) -> dict[str, float]:
        """One epoch of updates, or what is left of it."""
        self.model.train()
        begin, before = time.monotonic(), self.updates
        for wav, infos in self.training_batches():
            metrics = self.run_step(wav.to(self.device, non_blocking=True))
            self.end_update(metrics, metrics.pop('skipped'), wav, infos)
        loader = self.dataloaders['train']
        means = {
            **self.means.read(over_workers=True),
            **self.current_figures(),
            **loader.bad_files.metrics(),
        }
        seconds = time.monotonic() - begin
        means.update(
            updates_per_second=(self.updates - before) / seconds,
            data_wait=loader.wait_time / seconds,
        )
        peak = peak_memory(self.device)
        if peak is not None:
            means['peak_memory'] = peak
        self.warn(means)
        return means

    def current_figures(self) -> dict[str, float]:
        """The learning rates of the generator, `lr`, and of the discriminators, `d_lr`, where there
        are some.
        """
        optimizers = {'lr': self.optimizer, 'd_lr': self.adversaries.optimizer}
        return {
            name: optimizer.param_groups[0]['lr']
            for name, optimizer in optimizers.items()
            if optimizer
        }

    def higher_is_better(self, stage: str, metric: str) -> bool:
        """As the metric or the loss says of itself; codebooks should be used, and discriminators be
        right.
        """
        if stage == 'evaluate':
            return self.metrics.higher_is_better(metric)
        if metric in self.losses:
            return getattr(self.losses[metric], 'higher_is_better', False)
        return re.search(r'usage|perplexity|_acc$', metric) is not None

    def warn(self, metrics: Mapping[str, float]) -> None:
        """Say in the log what an epoch's metrics show to be going wrong."""
        history = [*(stages.get('train', {}) for stages in self.history), metrics]
        texts = [
            codebook_warning(history, self.cfg.logging.warn_codebook_usage),
            discriminator_warning(metrics, self.cfg.logging.warn_discriminator),
        ]
        for text in texts:
            if text is not None and distrib.is_rank_zero():
                self.logger.warning('%s', text)

    def valid(self) -> dict[str, float]:
        """The losses on held-out audio, with the averaged model where one is kept."""
        averager = Averager()
        with self.averaged_model():
            for wav, _ in self.batches_of('valid', averager.read):
                averager.update(
                    self.valid_step(wav.to(self.device, non_blocking=True)), weight=wav.shape[0]
                )
        return averager.read(over_workers=True)

    @torch.no_grad()
    def valid_step(self, wav: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses of one batch float [B, C, T], without any update."""
        with self.autocast():
            out = self.model(wav)
            losses = {
                **self.reconstruction_losses(out.wav, wav),
                **self.adversaries.generator_losses(out.wav, wav),
            }
        return {
            **self.reported(losses),
            **self.reports(out.wav, wav),
            **out.metrics,
            'commitment': out.commitment_loss,
            'bandwidth': out.bandwidth,
        }

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The metrics of `evaluate.metrics` over the evaluation split, shared among the workers."""
        self.metrics.reset()
        with self.averaged_model():
            for batch, infos in self.batches_of('evaluate'):
                with self.failures.caught('evaluation of a batch'):
                    wav = batch.to(self.device, non_blocking=True)
                    self.metrics.update(
                        self.model(wav).wav, wav, torch.tensor([info.n_frames for info in infos])
                    )
        figures = self.metrics.compute()
        self.failures.sync()
        return figures

    @torch.no_grad()
    def generate(self) -> dict[str, float]:
        """Write reference and reconstruction of every item of the generate split, side by side."""
        folder = self.folder / self.cfg.generate.path / f'epoch_{self.epoch}'
        items = written = 0
        with self.averaged_model():
            for wav, infos in self.batches_of('generate'):
                with self.failures.caught('generation of a batch'):
                    wav_hat = self.model(wav.to(self.device, non_blocking=True)).wav.cpu()
                    for index, info in enumerate(infos):
                        name = f'{info.index:03d}_{safe_stem(info.meta.path)}'
                        pair = {
                            'reference': wav[index, :, : info.n_frames],
                            'reconstruction': wav_hat[index, :, : info.n_frames],
                        }
                        self._track_pair(name, pair, items + index)
                        with self.failures.caught('writing of a sample'):
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
                self.model.sample_rate,
                strategy=options.strategy,
            )

    def _track_pair(self, name: str, pair: Mapping[str, torch.Tensor], number: int) -> None:
        if self.tracker is not None and number < self.cfg.logging.tensorboard_items:
            for kind, wav in pair.items():
                self.tracker.audio(
                    f'generate/{name}/{kind}', wav, self.model.sample_rate, self.updates, self.epoch
                )

    @contextmanager
    def averaged_model(self) -> Iterator[None]:
        """Within it, all parts are in eval mode, the model with the averaged weights where they are
        kept.
        """
        averaged = self.ema.averaged() if self.ema is not None else nullcontext()
        with (
            eval_mode(self.model, self.adversaries, self.losses),
            precision.for_any_length(),
            averaged,
        ):
            yield

    # ---- weights from elsewhere ------------------------------------------------------------------

    def initialize_from(self, source: str) -> None:
        """Start from a model that is trained already, and what its training left; see
        `finetune.start_from`.
        """
        trainee = finetune.Trainee(
            self.model, self.optimizer, self.adversaries, self.balancer, self.ema
        )
        for line in finetune.start_from(trainee, config.to_plain(self.cfg), source):
            self.logger.info('%s', line)

    @staticmethod
    def model_from_checkpoint(
        source: str | Path, device: str | torch.device = 'cpu'
    ) -> CompressionModel:
        """The model of an experiment, ready for inference.

        Args:
            source: `//sig/SIG`, an experiment's folder, a training checkpoint or exported file, or
                `//pretrained/NAME`.
            device: where to put it.

        Raises:
            ValueError: if there is no such experiment or file, or it cannot be read.
        """
        return pretrained.load(str(finetune.find_source(source)), device)

    # ---- description -----------------------------------------------------------------------------

    def show(self, brief: bool = False) -> str:
        """Describe the recipe: sizes, rates, latency, updates, hours; layers unless `brief`."""
        return describe(self.cfg, self.model, self.adversaries, brief)


def _same(value: torch.Tensor) -> torch.Tensor:
    return value
