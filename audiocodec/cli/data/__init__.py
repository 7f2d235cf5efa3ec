"""Subcommands that prepare audio for training."""
