"""Signal processing: spectra and mel filters, SI-SNR, loudness, resampling."""
