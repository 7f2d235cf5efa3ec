import fcntl
import io
import logging
import os
import re
import struct
import termios
from types import SimpleNamespace

import pytest

from audiocodec.utils import progress
from audiocodec.utils.progress import Progress, ProgressHandler, plain_number


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def screen(self):
        """Return the lines as shown on a terminal."""
        lines = []
        for line in self.getvalue().split('\n'):
            shown = ''
            for part in line.split('\r'):
                shown = part + shown[len(part) :]
            lines.append(shown.rstrip())
        return lines


def seen_as_stderr(monkeypatch, stream):
    """Replace `sys.stderr` only for the bar: pytest sets it itself."""
    monkeypatch.setattr(progress, 'sys', SimpleNamespace(stderr=stream))
    return stream


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', '100')
    return seen_as_stderr(monkeypatch, Terminal())


@pytest.fixture
def logger():
    """Logger with a handler for a file, and one for a terminal."""
    logger = logging.Logger('test')
    logger.file = io.StringIO()
    logger.addHandler(logging.StreamHandler(logger.file))
    logger.lines = lambda: logger.file.getvalue().splitlines()
    return logger


def test_plain_lines_are_evenly_spread(logger):
    bar = Progress(
        range(50),
        desc='Train | Epoch 3',
        lines=5,
        interval=0.0,
        figures=lambda: {'l1': f'{bar.n / 1000:.3f}', 'mel': '1.33'},
        logger=logger,
    )
    assert list(bar) == list(range(50))
    rate = r'[\d.e+]+ it/s \| ETA 00:00'
    expected = [
        rf'Train \| Epoch 3 \| {n}/50 \| {rate} \| l1 0\.0{n} \| mel 1\.33'
        for n in (10, 20, 30, 40, 50)
    ]
    assert len(logger.lines()) == 5
    assert all(re.fullmatch(*pair) for pair in zip(expected, logger.lines()))


@pytest.mark.parametrize('lines', [3, 7, 100])
def test_number_of_plain_lines(lines, logger):
    list(Progress(range(23), lines=lines, interval=0.0, logger=logger))
    assert len(logger.lines()) == min(lines, 23)


def test_plain_lines_are_apart(logger):
    list(Progress(range(50), lines=5, interval=60.0, logger=logger))
    assert logger.lines() == []


def test_without_a_total_a_line_every_interval(logger):
    list(Progress(iter(range(4)), desc='Index', unit='file', interval=0.0, logger=logger))
    assert [line.split(' | ')[:2] for line in logger.lines()] == [
        ['Index', str(n)] for n in (1, 2, 3, 4)
    ]
    assert logger.lines()[-1].endswith('file/s')


def test_resumed_pass_counts_from_where_it_was(logger):
    list(Progress(range(30), total=50, initial=20, lines=5, interval=0.0, logger=logger))
    assert [line.split(' | ')[0] for line in logger.lines()] == ['30/50', '40/50', '50/50']


def test_figures_are_read_only_when_shown(logger, terminal):
    calls = []
    figures = lambda: calls.append(1) or {}  # noqa: E731
    list(Progress(range(1000), lines=4, interval=0.0, figures=figures, logger=logger))
    assert 4 <= len(calls) <= 6  # four lines, and the bar at most once a second
    calls.clear()
    list(Progress(range(1000), figures=figures, enabled=False))
    assert calls == []


def test_bar_lives_on_one_line_and_leaves_nothing(terminal, logger):
    bar = Progress(
        range(40), desc='Valid | Epoch 1', figures=lambda: {'mel': '0.75'}, logger=logger
    )
    for step in bar:
        if step == 20:
            bar.refresh()
            (line,) = terminal.screen()
            assert re.fullmatch(
                r'Valid \| Epoch 1:  50%\|.*\| 20/40 \[.*, .*it/s, mel 0\.75\]', line
            )
            assert len(line) <= 100
    assert terminal.screen() == ['']
    assert '\n' not in terminal.getvalue()


def test_bar_and_log_share_a_terminal(terminal, logger):
    logger.addHandler(ProgressHandler(terminal))
    for step in Progress(range(4), desc='Train', lines=2, interval=0.0, logger=logger):
        if step == 2:
            logger.info('a word')
            assert terminal.screen()[0] == 'a word'
            assert terminal.screen()[1].startswith('Train:  50%|')
    assert terminal.screen() == ['a word', '']
    counts = [line.split(' | ')[1] if ' | ' in line else line for line in logger.lines()]
    assert counts == ['2/4', 'a word', '4/4']


@pytest.mark.parametrize('kind', ['no terminal', 'dumb'])
def test_elsewhere_nothing_but_lines(kind, logger, monkeypatch):
    stream = seen_as_stderr(monkeypatch, Terminal() if kind == 'dumb' else io.StringIO())
    monkeypatch.setenv('TERM', 'dumb')
    logger.addHandler(logging.StreamHandler(stream))
    list(Progress(range(4), desc='Train', lines=2, interval=0.0, logger=logger))
    assert stream.getvalue() == logger.file.getvalue()
    assert logger.file.getvalue().count('Train | ') == 2


def test_left_loop_takes_the_bar_away(terminal):
    def leave():
        for _ in Progress(range(5)):
            raise KeyError

    with pytest.raises(KeyError):
        leave()
    assert terminal.screen() == ['']


def test_disabled_only_iterates(terminal, logger):
    bar = Progress(range(5), lines=5, interval=0.0, logger=logger, enabled=False)
    assert list(bar) == [0, 1, 2, 3, 4]
    assert terminal.getvalue() == logger.file.getvalue() == ''


def test_counting_by_hand(logger):
    bar = Progress(total=10, lines=2, interval=0.0, logger=logger)
    for _ in range(5):
        bar.update(2)
    bar.close()
    assert [line.split(' | ')[0] for line in logger.lines()] == ['6/10', '10/10']


@pytest.mark.parametrize('columns', [0, 60])
def test_the_bar_appears_on_terminals_that_do_not_know_their_size(columns, monkeypatch):
    """tqdm by itself draws nothing there."""
    controller, terminal = os.openpty()
    rows = 24 if columns else 0
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('4H', rows, columns, 0, 0))
    monkeypatch.setenv('TERM', 'xterm')
    with os.fdopen(terminal, 'w') as stream:
        seen_as_stderr(monkeypatch, stream)
        for step in Progress(range(4), desc='Train'):
            if step == 1:
                os.set_blocking(controller, False)
                shown = os.read(controller, 100_000).decode()
    os.close(controller)
    assert '0/4' in shown
    assert len(shown.rsplit('\r', 1)[-1]) <= (columns or 80)


def test_a_terminal_that_is_closed_ends_no_loop(logger, monkeypatch):
    controller, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('4H', 24, 100, 0, 0))
    stream = os.fdopen(terminal, 'w')
    seen_as_stderr(monkeypatch, stream)
    monkeypatch.setenv('TERM', 'xterm')
    logger.addHandler(ProgressHandler(stream))
    bar = Progress(range(50), lines=5, interval=0.0, logger=logger)
    steps = []
    for step in bar:
        steps.append(step)
        bar.refresh()
        if step == 19:
            shown = b''
            while b'19/50' not in shown:  # a read gives what has arrived
                shown += os.read(controller, 100_000)
            os.close(controller)
    assert len(steps) == 50
    assert [line.split(' | ')[0] for line in logger.lines()] == [
        f'{n}/50' for n in (10, 20, 30, 40, 50)
    ]
    with pytest.raises(OSError, match='Input/output error'):
        stream.close()


@pytest.mark.parametrize(
    ('value', 'digits', 'text'),
    [
        (79978.3, 4, '79980'),
        (1234.5e6, 3, '1230000000'),
        (1.23456, 4, '1.235'),
        (80.0, 4, '80'),
        (0.00012, 4, '0.00012'),
        (1e-7, 4, '1e-07'),
        (float('nan'), 4, 'nan'),
        (float('inf'), 4, 'inf'),
    ],
)
def test_large_numbers_have_no_exponent(value, digits, text):
    assert plain_number(value, digits) == text
