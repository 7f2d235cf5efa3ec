import logging
import re
import sys

from audiocodec.run import logs

logger = logging.getLogger('audiocodec.test')


def lines(path):
    return [
        re.sub(r'^\d\d-\d\d \d\d:\d\d:\d\d ', '', line) for line in path.read_text().splitlines()
    ]


def test_lines_go_to_the_terminal_of_worker_zero_and_to_a_file_per_worker(tmp_path, capsys):
    for rank in (0, 1):
        logs.setup(tmp_path, rank)
        logger.info('worker %d', rank)
        logger.warning('careful')
        logger.debug('details')
    assert lines(tmp_path / 'solver.log.0') == ['worker 0', 'WARNING careful']
    assert lines(tmp_path / 'solver.log.1') == ['worker 1', 'WARNING careful']
    shown = capsys.readouterr().err
    assert 'worker 0' in shown
    assert 'worker 1' not in shown


def test_setup_replaces_its_own_handlers_only(tmp_path):
    root = logging.getLogger()
    other = logging.NullHandler()
    root.addHandler(other)
    before = len(root.handlers)
    for _ in range(3):
        logs.setup(tmp_path)
    assert len(root.handlers) == before + 2
    assert other in root.handlers
    logs.setup(None, rank=1)
    assert len(root.handlers) == before
    root.removeHandler(other)


def test_the_level_is_the_lowest_that_is_logged(tmp_path):
    logs.setup(tmp_path, level='WARNING')
    logger.info('no')
    logger.error('yes')
    assert lines(tmp_path / 'solver.log.0') == ['ERROR yes']


def test_colors_are_for_terminals_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    logs.setup(tmp_path)
    logger.warning('\033[1mbold\033[0m')
    assert lines(tmp_path / 'solver.log.0') == ['WARNING bold']
    record = logging.LogRecord('a', logging.WARNING, '', 0, 'careful', None, None)
    assert logs._Formatter(color=True).format(record).startswith('\033[33m')
    assert '\033' not in logs._Formatter(color=False).format(record)


def test_names_that_are_not_text_are_escaped_in_files(tmp_path):
    logs.setup(tmp_path, rank=1)
    (file,) = [
        handler for handler in logging.getLogger().handlers if getattr(handler, 'audiocodec', False)
    ]
    # not by the logger: pytest captures its records, and cannot send this one between processes
    file.handle(logging.LogRecord('a', logging.INFO, '', 0, 'file \udcff.wav', None, None))
    assert lines(tmp_path / 'solver.log.1') == ['file \\udcff.wav']
