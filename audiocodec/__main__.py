"""`python -m audiocodec`: the `audiocodec` command, where its folder is not on PATH."""

import sys

from audiocodec.cli.main import main

sys.exit(main())
