#!/usr/bin/env python
"""Write a manifest of the audio files below a folder: the same as `audiocodec manifest`."""

import sys

from audiocodec.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['manifest', *sys.argv[1:]]))
