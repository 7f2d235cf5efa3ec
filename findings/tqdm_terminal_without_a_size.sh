#!/usr/bin/env bash
# A terminal that does not know its size reports 0 x 0: one made by openpty, as by `expect`, and by container runtimes
# until a client sends a size. With `dynamic_ncols=True`, tqdm 4.70.1 then draws nothing at all: the loop looks as if it
# hung. With the default, the bar appears.
#
# Seen with tqdm 4.70.1, at 0 x 0: dynamic_ncols=False writes some 350 bytes for four steps, dynamic_ncols=True 2 bytes
# (a carriage return and a line feed); at 24 x 80 it writes some 780 bytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q tqdm==4.70.1
"$folder/venv/bin/python" - <<'Y'
import fcntl
import os
import struct
import termios

from tqdm import tqdm


def shown(rows, columns, **options):
    controller, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('4H', rows, columns, 0, 0))
    with os.fdopen(terminal, 'w') as stream:
        for _ in tqdm(range(4), file=stream, mininterval=0, **options):
            pass
        data = os.read(controller, 100_000)
    os.close(controller)
    return data


fixed, dynamic, wide = shown(0, 0), shown(0, 0, dynamic_ncols=True), shown(24, 80, dynamic_ncols=True)
print(f'0 x 0: {len(fixed)} bytes, with dynamic_ncols {dynamic!r}; 24 x 80 with dynamic_ncols: {len(wide)} bytes')
assert b'4/4' in fixed and b'4/4' in wide, 'the behavior has changed: no bar'
assert dynamic == b'\r\n', f'the behavior has changed: {dynamic!r}'
Y
