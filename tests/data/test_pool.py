import faulthandler
import os
import signal

import pytest

from audiocodec.data.pool import map_files


def square(number):
    return number * number


def crash_on_some(number):
    if number in (3, 20):
        faulthandler.disable()  # its output would clutter the test report
        os.kill(os.getpid(), signal.SIGSEGV)
    return number * number


def fail(number):
    raise ValueError(f'item {number}')


def process_id(number):
    return os.getpid()


@pytest.mark.parametrize('workers', [1, 3, None])
@pytest.mark.parametrize('count', [0, 1, 50])
def test_results_are_in_the_order_of_the_items(workers, count):
    items = range(count)
    results = map_files(square, items, workers, 'Test', died=lambda number: -1)
    assert results == [number * number for number in range(count)]


def test_few_items_need_no_process_unless_one_is_required():
    ids = map_files(process_id, range(3), 8, 'Test', died=lambda number: -1)
    assert set(ids) == {os.getpid()}
    ids = map_files(process_id, range(3), 1, 'Test', died=lambda number: -1, at_least=1)
    assert len(set(ids)) == 1
    assert os.getpid() not in ids


@pytest.mark.parametrize('at_least', [0, 1])
def test_an_error_of_the_function_is_raised(at_least):
    with pytest.raises(ValueError, match=r'^item 0$'):
        map_files(fail, range(3), 1, 'Test', died=lambda number: -1, at_least=at_least)


@pytest.mark.slow
@pytest.mark.parametrize('workers', [1, 3])
def test_only_items_that_crash_their_process_get_the_result_of_died(workers):
    results = map_files(
        crash_on_some, range(40), workers, 'Test', died=lambda number: -number, at_least=1
    )
    expected = [number * number for number in range(40)]
    expected[3] = -3
    expected[20] = -20
    assert results == expected


@pytest.mark.slow
def test_died_may_raise():
    def died(number):
        raise ValueError(f'item {number} crashed')

    with pytest.raises(ValueError, match=r'^item 3 crashed$'):
        map_files(crash_on_some, range(40), 2, 'Test', died=died, at_least=1)
