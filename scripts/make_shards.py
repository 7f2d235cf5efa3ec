#!/usr/bin/env python
"""Decode, resample and pack audio into shards: the same as `audiocodec shards`."""

import sys

from audiocodec.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['shards', *sys.argv[1:]]))
