"""Signal processing: spectra and mel filters, SI-SNR, loudness, resampling."""

from audiocodec.dsp.sisnr import si_snr
from audiocodec.dsp.spectra import MelSpectrogram, power_spectrum

__all__ = ['MelSpectrogram', 'power_spectrum', 'si_snr']
