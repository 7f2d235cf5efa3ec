import io
import logging
import os
import re

import pytest

from audiocodec.utils import progress
from audiocodec.utils.progress import ConsoleFilter, Progress, format_seconds


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def screen(self):
        """Lines as a terminal shows them."""
        lines = []
        for line in self.getvalue().split('\n'):
            shown = ''
            for part in re.split(r'(\r|\x1b\[K)', line):
                shown = '' if part in ('\r', '\x1b[K') else shown + part
            lines.append(shown)
        return lines


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setattr(
        progress.shutil,
        'get_terminal_size',
        lambda **fallback: progress.os.terminal_size((200, 24)),
    )


@pytest.fixture
def logger():
    """A logger with a handler for the file, and one for the screen behind the filter."""
    logger = logging.Logger('test')
    logger.file, logger.screen = io.StringIO(), Terminal()
    for stream in (logger.file, logger.screen):
        logger.addHandler(logging.StreamHandler(stream))
    logger.handlers[1].addFilter(ConsoleFilter())
    return logger


def test_plain_lines_are_apart(clock):
    out = io.StringIO()
    for _ in Progress(range(50), updates=5, interval=4.0, stream=out):
        clock(0.25)
    assert [line.split(' | ')[0] for line in out.getvalue().splitlines()] == ['20/50', '40/50']


def test_plain_lines_are_evenly_spread(clock):
    out = io.StringIO()
    bar = Progress(range(50), desc='Train | Epoch 3', updates=5, interval=0.0, stream=out)
    for step in bar:
        clock(0.25)
        bar.set_postfix({'l1': f'{step / 1000:.3f}', 'msspec': '1.33'})
    lines = out.getvalue().splitlines()
    assert lines[0] == 'Train | Epoch 3 | 10/50 | 4 it/s | ETA 0:10 | l1 0.009 | msspec 1.33'
    assert lines[4] == 'Train | Epoch 3 | 50/50 | 4 it/s | ETA 0:00 | l1 0.049 | msspec 1.33'
    assert [line.split(' | ')[2] for line in lines] == ['10/50', '20/50', '30/50', '40/50', '50/50']


@pytest.mark.parametrize('updates', [3, 7, 100])
def test_number_of_plain_lines(updates):
    out = io.StringIO()
    for _ in Progress(range(23), updates=updates, interval=0.0, stream=out):
        pass
    assert len(out.getvalue().splitlines()) == min(updates, 23)


def test_without_updates_a_line_every_interval(clock):
    out = io.StringIO()
    for _ in Progress(iter(range(100)), desc='Index', unit='file', interval=10, stream=out):
        clock(0.9)
    lines = out.getvalue().splitlines()
    assert len(lines) == 8  # every 12 steps of 0.9 s
    assert lines[1] == 'Index | 24 | 1.11 file/s'


def test_first_step_does_not_spoil_the_rate(clock):
    out = io.StringIO()
    for step in Progress(range(10), updates=1, interval=0.0, stream=out):
        clock(60 if step == 0 else 0.5)
    assert '| 2 it/s |' in out.getvalue()


def test_resumed_pass_counts_from_where_it_was(clock):
    out = io.StringIO()
    for _ in Progress(range(30), total=50, initial=20, updates=5, interval=0.0, stream=out):
        clock(0.5)
    assert out.getvalue().splitlines()[0] == '30/50 | 2 it/s | ETA 0:10'
    assert len(out.getvalue().splitlines()) == 3


def test_figures_are_read_only_when_shown(clock, wide):
    calls = []
    bar = Progress(range(1000), updates=4, interval=0.0, stream=io.StringIO())
    bar.set_postfix(lambda: calls.append(1) or {})
    for _ in bar:
        clock(0.01)
    assert len(calls) == 4
    calls.clear()
    bar = Progress(range(1000), stream=Terminal())
    bar.set_postfix(lambda: calls.append(1) or {})
    for _ in bar:
        clock(0.01)
    assert 9 <= len(calls) <= 11  # ten seconds


def test_bar_lives_on_one_line_and_leaves_nothing(clock, wide):
    out = Terminal()
    bar = Progress(range(40), desc='Valid | Epoch 1', stream=out)
    for step in bar:
        clock(0.5)
        bar.set_postfix({'mel': '0.75'})
        if step == 20:
            assert out.screen() == [
                'Valid | Epoch 1 [##########----------]  50% 20/40 | 2 it/s | ETA 0:10 | mel 0.75'
            ]
    assert out.screen() == ['']
    assert '\n' not in out.getvalue()


def test_bar_is_drawn_at_most_ten_times_a_second(clock, wide):
    out = Terminal()
    for _ in Progress(range(1000), stream=out):
        clock(0.001)
    assert out.getvalue().count('/1000') <= 11


def test_bar_fits_the_terminal(clock, wide, monkeypatch):
    monkeypatch.setattr(
        progress.shutil, 'get_terminal_size', lambda **fallback: progress.os.terminal_size((30, 24))
    )
    out = Terminal()
    for step in Progress(range(40), desc='Valid | Epoch 1', stream=out):
        clock(0.5)
        if step == 20:
            assert [len(line) for line in out.screen()] == [29]


def test_bar_and_log_share_a_terminal(clock, wide, logger):
    bar = Progress(
        range(4), desc='Train', updates=2, interval=0.0, logger=logger, stream=logger.screen
    )
    for step in bar:
        clock(1)
        if step == 2:
            logger.info('a word')
            assert logger.screen.screen() == ['a word', '']
    assert logger.screen.screen() == ['a word', '']
    assert logger.file.getvalue().splitlines() == [
        'Train | 2/4 | 1 it/s | ETA 0:02',
        'a word',
        'Train | 4/4 | 1 it/s | ETA 0:00',
    ]


def test_without_terminal_all_handlers_get_the_lines(clock, logger):
    for _ in Progress(
        range(4), desc='Train', updates=2, interval=0.0, logger=logger, stream=io.StringIO()
    ):
        clock(1)
    assert logger.file.getvalue() == logger.screen.getvalue()
    assert logger.file.getvalue().count('Train | ') == 2


def test_only_one_bar_at_a_time(clock, wide):
    out = Terminal()
    for _ in Progress(range(2), desc='outer', stream=out):
        clock(1)
        for _ in Progress(range(2), desc='inner', stream=out):
            clock(1)
    assert 'outer' in out.getvalue()
    assert 'inner' not in out.getvalue()


def test_left_loop_takes_the_bar_away(clock, wide):
    out = Terminal()

    def leave():
        for _ in Progress(range(5), stream=out):
            clock(1)
            raise KeyError

    with pytest.raises(KeyError):
        leave()
    assert out.screen() == ['']
    assert Progress._on_screen is None


def test_dumb_terminal_gets_plain_lines(clock, monkeypatch):
    monkeypatch.setenv('TERM', 'dumb')
    out = Terminal()
    for _ in Progress(range(2), updates=2, interval=0.0, stream=out):
        clock(1)
    assert out.getvalue() == '1/2\n2/2 | 1 it/s | ETA 0:00\n'


def test_disabled_only_iterates(wide):
    out = Terminal()
    assert list(Progress(range(5), updates=5, interval=0.0, enabled=False, stream=out)) == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert out.getvalue() == ''


def test_counting_by_hand(clock):
    out = io.StringIO()
    bar = Progress(total=10, updates=2, interval=0.0, stream=out)
    for _ in range(5):
        clock(1)
        bar.update(2)
    bar.close()
    assert [line.split(' | ')[0] for line in out.getvalue().splitlines()] == ['6/10', '10/10']
    with pytest.raises(ValueError, match='without an iterable'):
        next(iter(bar))


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (0, '0:00'),
        (7.4, '0:07'),
        (61, '1:01'),
        (3599.6, '1:00:00'),
        (90061, '25:01:01'),
        (-1, '0:00'),
    ],
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.usefixtures('wide')
@pytest.mark.parametrize('with_logger', [True, False])
def test_a_terminal_that_is_closed_ends_no_loop(clock, logger, with_logger):
    controller, terminal = os.openpty()
    stream = os.fdopen(terminal, 'w')
    steps = []
    for step in Progress(
        range(50), updates=5, interval=0.0, stream=stream, logger=logger if with_logger else None
    ):
        clock(0.25)
        steps.append(step)
        if step == 19:
            assert b'19/50' in os.read(controller, 10_000)
            os.close(controller)
    assert len(steps) == 50
    lines = logger.file.getvalue().splitlines()
    assert [line.split(' | ')[0] for line in lines] == [
        '10/50',
        '20/50',
        '30/50',
        '40/50',
        '50/50',
    ] * with_logger
    with pytest.raises(OSError, match='Input/output error'):
        stream.close()
