"""Causal transformers, and encoders and decoders with them."""
