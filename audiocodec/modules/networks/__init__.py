"""Encoders and decoders: whole networks between waveform and latents."""
