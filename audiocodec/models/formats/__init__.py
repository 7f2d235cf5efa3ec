"""Checkpoint formats of other projects, one file each, imported and exported."""
