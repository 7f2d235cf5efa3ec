"""audiocodec: train, use and share neural audio codecs."""

__version__ = '0.1.0'
