#!/usr/bin/env python
"""Check the audio of a manifest or folder: the same as `audiocodec doctor`."""

import sys

from audiocodec.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['doctor', *sys.argv[1:]]))
