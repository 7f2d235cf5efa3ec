"""Encoders and decoders of a signal that arrives in pieces, and of files of any length."""
