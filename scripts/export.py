#!/usr/bin/env python
"""Export a model and compare it on audio: an alias of `audiocodec export`."""

import sys

from audiocodec.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['export', *sys.argv[1:]]))
