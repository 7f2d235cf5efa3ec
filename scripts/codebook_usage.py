#!/usr/bin/env python
"""Usage and perplexity of each codebook on audio: the same as `audiocodec usage`."""

import sys

from audiocodec.cli.main import main

if __name__ == '__main__':
    sys.exit(main(['usage', *sys.argv[1:]]))
