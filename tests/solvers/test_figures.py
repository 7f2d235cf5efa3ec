"""Metrics in a line of the log: selection, order, names and formats."""

from audiocodec.solvers import figures

METRICS = {
    'lr': 3e-4,
    'g_loss': 1.23456,
    'd_msd_real_acc': 0.987,
    'codebook_usage_min': 0.5,
    'updates_per_second': 12.345,
    'mel': 0.7,
    'melody': 1.0,
}


def line(*patterns):
    return figures.select(figures.make_formatter(patterns), patterns, METRICS)


def test_metrics_are_selected_by_name_in_the_order_of_the_patterns():
    assert list(line('mel', 'lr')) == ['mel', 'lr']
    assert list(line('d_*_acc', 'mel*')) == ['d_msd_real_acc', 'mel', 'melody']
    assert line() == {}
    assert line('sisnr') == {}


def test_names_are_short_and_formats_follow_the_kind_of_metric():
    patterns = ('g_loss', 'codebook_usage_min', 'updates_per_second', 'lr', 'd_*_acc')
    assert line(*patterns) == {
        'loss': '1.235',
        'usage': '50.0%',
        'it/s': '12.35',
        'lr': '3.00e-04',
        'd_msd_real_acc': '98.7%',
    }


def test_the_first_matching_pattern_places_a_metric():
    assert list(line('lr', 'm*', 'mel')) == ['lr', 'mel', 'melody']
