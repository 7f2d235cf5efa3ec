import os

import pytest

from audiocodec.utils.paths import safe_stem

UNCHANGED = ['a', 'My song (live)', '-dash', 'café', 'cafe\u0301', '音' * 26, 'हिन्दी', '🎵', 'a.b', "it's", 'x' * 80]


@pytest.mark.parametrize('stem', UNCHANGED)
def test_names_that_can_be_stored_stay_as_they_are(stem):
    assert safe_stem(f'/some/where/{stem}.wav') == stem


CHANGED = {'caf\udce9': 'caf_', 'two\nlines': 'two_lines', 'tab\t': 'tab_', 'a:b?c*': 'a_b_c_', 'r\u202etl': 'r_tl',
           'x' * 81: 'x' * 71, '音' * 100: '音' * 23, 'y' * 79 + '\n': 'y' * 71, '\ud800': '_'}


@pytest.mark.parametrize(('stem', 'begin'), CHANGED.items())
def test_other_names_are_cleaned_and_cut_and_end_in_a_hash(stem, begin):
    found = safe_stem(f'/some/where/{stem}.wav')
    assert found[:-9] == begin
    assert found[-9] == '-'
    int(found[-8:], 16)
    assert found.isprintable()
    assert len(os.fsencode(found)) <= 80


def test_different_names_stay_different():
    names = ['x' * 100, 'x' * 101, 'a\nb', 'a\tb', 'a_b', 'caf\udce9', 'caf\udce8']
    assert len({safe_stem(name) for name in names}) == len(names)
