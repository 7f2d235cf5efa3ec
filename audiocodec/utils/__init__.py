"""Lowest layer: configuration, files, collectives; imports nothing else of audiocodec."""
