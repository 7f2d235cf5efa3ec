"""The report in a real browser: it plays, switches, sorts and scores, from disk."""

import shutil
import time

import pytest
from reports import write_evaluation, write_run

from audiocodec.report import write_report

webdriver = pytest.importorskip('selenium.webdriver')
BROWSER, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason='no chromium with chromedriver'),
]

SECONDS = 8  # of each item: the playing one must not end while a slow machine looks at it


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    evaluation = write_evaluation(folder / 'e', seconds=SECONDS)
    sources = [evaluation, write_run(folder / 'x'), write_run(folder / 'y')]
    write_report([str(source) for source in sources], folder / 'out')
    return folder / 'out' / 'index.html'


@pytest.fixture(params=[(1200, 900), (400, 800)], ids=['desktop', 'phone'])
def browser(request, report):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    width, height = request.param
    for option in (
        'headless=new',
        'no-sandbox',
        f'window-size={width},{height}',
        'autoplay-policy=no-user-gesture-required',
        'disable-dev-shm-usage',
    ):
        options.add_argument(f'--{option}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    service = webdriver.ChromeService(DRIVER)
    with webdriver.Chrome(options, service) as driver:
        driver.get(report.as_uri())
        wait_for(lambda: driver.execute_script('return document.documentElement.dataset.ready'))
        yield driver
        severe = [entry for entry in driver.get_log('browser') if entry['level'] == 'SEVERE']
        assert severe == []


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError('it did not happen')


def find(browser, selector):
    return browser.find_elements('css selector', selector)


def titles(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('#items > li')].map(li => li.ariaLabel)"
    )


def scroll_to_items(browser):
    """Items are built when they come into view."""
    browser.execute_script("document.querySelector('#items').scrollIntoView()")
    wait_for(lambda: find(browser, '#items .picture'))


def press(browser, key):
    webdriver.ActionChains(browser).send_keys(key).perform()


def state(browser):
    return browser.execute_script(
        'const p = currentCard.player;'
        'return {playing: p.playing, active: p.active, position: p.position,'
        ' sounding: p.audios.filter(audio => audio && !audio.paused).length}'
    )


def test_plots_and_tables_are_drawn_and_nothing_is_wider_than_the_page(browser):
    assert len(find(browser, '.chart canvas')) == 2
    assert len(find(browser, '#summary tbody tr')) == 3
    assert 'Lower is better' in find(browser, '#quality-caption')[0].text
    wider = 'return document.documentElement.scrollWidth - document.documentElement.clientWidth'
    assert browser.execute_script(wider) == 0


def test_items_play_and_switch_at_the_same_position(browser):
    scroll_to_items(browser)
    find(browser, '#items button.play')[0].click()
    wait_for(lambda: state(browser)['playing'] and state(browser)['position'] > 0.1)
    begin, before = time.monotonic(), state(browser)['position']
    press(browser, '2')
    after = wait_for(lambda: state(browser)['active'] == 1 and state(browser))
    assert before <= after['position'] < before + time.monotonic() - begin + 0.1
    wait_for(lambda: state(browser)['sounding'] == 1)
    begin, before = time.monotonic(), state(browser)['position']
    press(browser, webdriver.Keys.ARROW_LEFT)
    assert state(browser)['position'] < max(0, before - 1) + time.monotonic() - begin + 0.1
    find(browser, '#items .versions button')[2].click()
    wait_for(lambda: state(browser)['active'] == 2)
    picture = find(browser, '#items .picture img')[0].get_attribute('src')
    assert picture.endswith('_02.webp')
    find(browser, '#items button.play')[0].click()
    wait_for(lambda: not state(browser)['playing'])


def test_a_click_on_the_spectrogram_seeks(browser):
    scroll_to_items(browser)
    picture = find(browser, '#items .picture')[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
    webdriver.ActionChains(browser).move_to_element(picture).click().perform()
    wait_for(lambda: browser.execute_script('return currentCard !== null'))
    assert state(browser)['position'] == pytest.approx(SECONDS / 2, abs=0.02 * SECONDS)
    line = find(browser, '#items .head-line')[0].get_attribute('style')
    assert float(line.split('left:')[1].split('%')[0]) == pytest.approx(50, abs=2)


def test_keys_move_between_items_and_play(browser):
    browser.execute_script('document.activeElement.blur()')
    press(browser, webdriver.Keys.ARROW_DOWN)
    press(browser, webdriver.Keys.ARROW_DOWN)
    current = find(browser, '#items li.current')
    assert [card.get_attribute('aria-label') for card in current] == [titles(browser)[1]]
    press(browser, ' ')
    wait_for(lambda: state(browser)['playing'])
    press(browser, ' ')
    wait_for(lambda: not state(browser)['playing'])


def test_the_worst_items_come_first_and_the_order_can_be_chosen(browser):
    assert titles(browser) == ['item_2', 'item_1', 'item_0', 'a.b']
    find(browser, '#sort-reverse')[0].click()
    assert titles(browser) == ['item_0', 'item_1', 'item_2', 'a.b']
    find(browser, '#sort-metric option[value=sisnr]')[0].click()
    # higher is better, and item_0 has no score
    assert titles(browser)[:2] == ['item_1', 'item_2']


def test_abx_answers_are_counted_and_kept(browser):
    find(browser, '#abx-start')[0].click()
    for _ in range(4):
        right = browser.execute_script(
            'const [a, , x] = blind.player.sources; return a === x ? "abx-is-a" : "abx-is-b"'
        )
        find(browser, f'#{right}')[0].click()
    text = 'ours@3 or reference: 4 of 4 right (by guessing p = 0.063)'
    assert find(browser, '#blind-score')[0].text == text
    assert find(browser, '#blind-export')[0].is_enabled()
    browser.refresh()
    wait_for(lambda: find(browser, '#blind-score')[0].text == text)
    find(browser, '#blind-clear')[0].click()
    assert find(browser, '#blind-score')[0].text == ''


def test_every_version_is_rated_blindly_the_reference_among_them(browser):
    find(browser, '#mushra-start')[0].click()
    sliders = find(browser, '.rating input')
    shown = find(browser, '#blind-stage')[0].text
    assert 'ours' not in shown
    assert 'Opus' not in shown
    browser.execute_script('arguments[0].value = 80', sliders[0])
    find(browser, '#mushra-save')[0].click()
    answers = browser.execute_script('return blind.answers')
    assert len(answers) == len(sliders)
    assert sorted(answer['rating'] for answer in answers)[-1] == 80
    assert 'reference' in {answer['version'] for answer in answers}
    find(browser, '#blind-clear')[0].click()
