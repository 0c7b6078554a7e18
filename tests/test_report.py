"""The report: a page that stands alone, and is read and sorted in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmdisalign.analysis import Calibration, Evaluation, Gate, Picture
from mmdisalign.analysis.gate import NUM_BINS, edge_of
from mmdisalign.analysis.report import write_report

NUM_CLASSES = 6
GROUPS = dict(head=[5], body=[3, 4], tail=[0, 1, 2])
BEFORE = Evaluation(
    summary=dict(mIoU=40.0, mAcc=50.0),
    # Names that a page must not take for markup, nor a figure for mathematics.
    classes=['<b>kerb</b>', 'a $1$ coin', 'pole & sign', 'car', 'tree', 'road'],
    groups=GROUPS,
    frequencies=[0.001, 0.002, 0.007, 0.09, 0.2, 0.7],
    per_class=dict(IoU=[None, 0.0, 10.0, 60.0, 50.0, 80.0]),
    confusion=dict(
        head=dict(head=90, body=10, tail=0),
        body=dict(head=20, body=80, tail=0),
        tail=dict(head=50, body=25, tail=25),
    ),
)
AFTER = replace(
    BEFORE,
    summary=dict(mIoU=45.0, mAcc=58.0),
    per_class=dict(IoU=[5.0, 20.0, 18.0, 59.0, 50.0, 78.0]),
    confusion={**BEFORE.confusion, 'tail': dict(head=25, body=25, tail=50)},
)


def gate() -> Gate:
    """Open at nearly all of 1,000 roads and cars, half closed at signs; no coin was seen."""
    counts = np.zeros((NUM_CLASSES, NUM_BINS), int)
    counts[[3, 5], edge_of(0.99)] = 999
    counts[[3, 5], edge_of(0.2)] = 1
    counts[2, edge_of(0.7)], counts[2, edge_of(0.4)] = 5, 5
    right = counts.copy()
    right[2, edge_of(0.7)] = right[5, edge_of(0.2)] = 0
    changed, saved, lost = (np.array([0, 0, n, 0, 0, 2 * n]) for n in (3, 2, 1))
    return Gate('pixels', 7, counts, changed, right, saved, lost)


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section."""
    values = np.linspace(-1, 1, NUM_CLASSES).tolist()
    image = np.zeros((40, 900, 3), np.uint8)
    picture = Picture('street.png: 9 pixels', [('ground truth', image), ('DisAlign', image)])
    closed = [Picture('alley.png: closed', [('σ(x)', image)])]
    learned = Calibration('decode_head.calibration', values, values, gate(), closed)
    return write_report(
        {'stage 1': BEFORE, 'DisAlign': AFTER},
        tmp_path_factory.mktemp('report'),
        calibrations=[learned],
        pictures=[picture],
    )


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    """Debian's chromium; `make test` installs it where it can."""
    chromium = shutil.which('chromium')
    if chromium is None:
        pytest.skip('needs a browser: apt-get install chromium')
    playwright = pytest.importorskip('playwright.sync_api')
    with playwright.sync_playwright() as driver:
        # Without its sandbox, as a container's root has to; the page is our own.
        browser = driver.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        yield browser
        browser.close()


def test_the_page_opens_with_what_rose_and_what_fell(page: Path) -> None:
    paragraph = re.search(r'<p class="verdict">(.*?)</p>', page.read_text(), re.DOTALL).group(1)
    assert paragraph.startswith('From stage 1 to DisAlign, mean IoU rose by 5.0 to 45.0 %: tail ')


def test_the_page_needs_no_other_file(page: Path) -> None:
    text = page.read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(source.startswith(('data:', '#')) for source in sources)
    assert 'data:image/jpeg' in text
    assert '@import' not in text and 'url(http' not in text


def test_every_figure_is_there_as_png_and_svg(page: Path) -> None:
    names = {'IoU_per_class', 'IoU_gain', 'confusion'}
    names |= {f'decode_head.calibration_{kind}' for kind in ('alpha_beta', 'sigma')}
    for ending, first in (('png', b'\x89PNG'), ('svg', b'<?xml')):
        files = {path.stem: path for path in (page.parent / 'figures').glob(f'*.{ending}')}
        assert set(files) == names
        assert all(path.read_bytes().startswith(first) for path in files.values())
    assert page.read_text().count('<svg') == len(names)
    assert len(list((page.parent / 'images').glob('*.jpg'))) == 2
    assert len(list((page.parent / 'images/decode_head.calibration').iterdir())) == 1


def test_names_are_no_markup(page: Path) -> None:
    text = page.read_text()
    assert '<b>kerb' not in text
    assert '&lt;b&gt;kerb&lt;/b&gt;' in text


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_browser_shows_it_without_errors(page: Path, browser: Any, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, offline=True)
    tab = context.new_page()
    errors: list[str] = []
    tab.on('pageerror', lambda error: errors.append(str(error)))
    tab.on('console', lambda message: errors.append(message.text))
    tab.goto(page.as_uri())
    # Text of a figure must stand out from the page as the page's own text does.
    colours = tab.evaluate(
        '[document.body, document.querySelector("svg text")].map(e => getComputedStyle(e))'
        '.map((style, i) => i ? style.fill : style.color)'
    )
    assert colours[0] == colours[1]
    assert (colours[0] == 'rgb(31, 35, 40)') is (scheme == 'light')
    assert tab.locator('img').evaluate_all('all => all.every(img => img.naturalWidth > 0)')
    assert errors == []
    context.close()


def test_a_click_sorts_a_table(page: Path, browser: Any) -> None:
    tab = browser.new_page()
    tab.goto(page.as_uri())
    heading = tab.get_by_role('heading', name='Each class', exact=True)
    table = tab.locator('section', has=heading).locator('table')
    rows = table.locator('tbody tr')

    def column(number: int) -> list[str]:
        return [row.locator('td').nth(number).inner_text() for row in rows.all()]

    assert column(0)[0] == 'road'
    table.get_by_role('button', name='IoU stage 1').click()
    # A class without a value is last, whichever way.
    assert column(3) == ['0.00', '10.00', '50.00', '60.00', '80.00', '–']
    assert table.locator('th[aria-sort=ascending]').inner_text().startswith('IoU stage 1')
    table.get_by_role('button', name='IoU stage 1').click()
    assert column(3) == ['80.00', '60.00', '50.00', '10.00', '0.00', '–']
    table.get_by_role('button', name='class').click()
    assert column(0)[:2] == ['<b>kerb</b>', 'a $1$ coin']
    tab.close()


def test_it_fits_a_phone(page: Path, browser: Any) -> None:
    context = browser.new_context(viewport=dict(width=360, height=640), is_mobile=True)
    tab = context.new_page()
    tab.goto(page.as_uri())
    # Tables and figures scroll for themselves, the page does not.
    assert tab.evaluate('document.documentElement.scrollWidth') == 360
    context.close()


def test_many_classes_have_points_for_bars(tmp_path: Path) -> None:
    shares = (1 / np.arange(1, 1204)).tolist()
    result = Evaluation(
        dict(bbox_AP=10.0),
        [f'class {i}' for i in range(1203)],
        dict(r=list(range(900, 1203)), c=list(range(400, 900)), f=list(range(400))),
        [share / sum(shares) for share in shares],
        dict(bbox_AP=[10.0] * 1203),
    )
    page = write_report({'a': result, 'b': result, 'c': result}, tmp_path)
    assert page.stat().st_size < 4_000_000
    assert 'From a to c, bbox AP stayed at 10.0 %' in page.read_text()


@pytest.mark.parametrize(
    ('results', 'message'),
    [
        ({'a': BEFORE}, 'compares 2 to 6 evaluations, got 1'),
        (
            {'a': BEFORE, 'b': replace(AFTER, classes=['x', *AFTER.classes[1:]])},
            'a and b cannot be compared: classes of one are 6: <b>kerb',
        ),
        ({'a': BEFORE, 'b': replace(AFTER, per_class={})}, 'per_class of one are 1: IoU'),
        (
            {'a': BEFORE, 'b': replace(AFTER, groups=dict(head=[0], body=[1], tail=[2, 3, 4, 5]))},
            'their groups have other classes',
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, results: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_report(results, tmp_path)
    assert not list(tmp_path.iterdir())


def test_figure_table_and_sentence_agree_where_a_class_has_no_value(page: Path) -> None:
    # Of the tail, kerb has no IoU before: 5 before is the mean of two, 14.33 after of three.
    text = page.read_text()
    assert 'tail rose by 9.3 to 14.3 %' in text
    assert 'tail +9.3' in (page.parent / 'figures/IoU_gain.svg').read_text()
    assert '>+9.33<' in text
    assert 'Of the 5 classes with a value in both' in text


@pytest.mark.parametrize('values', [[None] * NUM_CLASSES, [0.0] * NUM_CLASSES])
def test_values_may_be_missing_or_zero(tmp_path: Path, values: list) -> None:
    before = replace(BEFORE, summary={}, per_class=dict(IoU=values), confusion=None)
    page = write_report({'a': before, 'b': AFTER}, tmp_path, pictures=[])
    text = page.read_text()
    assert ('mean IoU has no value in both' in text) is (values[0] is None)
    assert 'No prediction changed that has to do with the rarest group' in text


def test_empty_groups_are_none(tmp_path: Path) -> None:
    before, after = (replace(each, groups=dict(r=[], c=[], f=[])) for each in (BEFORE, AFTER))
    assert before.partition == {}
    write_report({'a': before, 'b': after}, tmp_path)


def test_without_frequencies_the_page_says_so(tmp_path: Path) -> None:
    before, after = (replace(each, frequencies=None) for each in (BEFORE, AFTER))
    text = write_report({'a': before, 'b': after}, tmp_path).read_text()
    assert 'The class frequencies are not known; --prior adds them.' in text
    assert 'share of the training data<' not in text


def test_the_gate_says_where_it_closes_and_what_that_protects(page: Path) -> None:
    text = page.read_text()
    section = text[text.index('<h2>Where the gate closes') :].partition('</section>')[0]
    paragraph = re.search(r'<p>(.*?)</p>', section, re.DOTALL).group(1)
    assert (
        'Of 2,010 pixels of 7 images, by their true class, 0.35 % have σ(x) below 0.5' in paragraph
    )
    assert '9 (0.45 %) would be of another class (changed): 6 are right as they are' in paragraph
    assert '3 are wrong and would be right (lost)' in paragraph
    assert 'Stage 1 was right at 85.7 % below 0.5, 50.0 % below 0.9, 100.0 % from' in paragraph
    rows = re.findall(r'<tr>(<td.*?)</tr>', section, re.DOTALL)
    cells = [re.findall(r'<td[^>]*>(.*?)</td>', row) for row in rows]
    # Where it closes most is first, and what was never seen last.
    assert cells[0][:5] == ['pole &amp; sign', 'tail', '10', '50.00', '100.00']
    assert cells[0][7:10] == ['100.00', '50.00', '–']
    assert cells[0][10:] == ['30.00', '20.00', '10.00']
    assert [row[0] for row in cells[1:3]] == ['road', 'car'][:: 1 if cells[1][0] == 'road' else -1]
    assert all(row[2] == '0' and set(row[3:]) == {'–'} for row in cells[3:])
    assert 'alley.png: closed' in section


def test_a_low_end_of_a_thousandth_shows_in_the_figure(page: Path) -> None:
    svg = (page.parent / 'figures/decode_head.calibration_sigma.svg').read_text()
    for label in ('0.1', '0.5', '0.9', '0.99', 'stage 1 right there (%)'):
        assert f'>{label}</text>' in svg
    # A tenth of a per cent of the head is below 0.5: the logarithmic axis begins no higher.
    assert '>0.1</text>' in svg and '>per cent of the group below</text>' in svg


def test_without_true_classes_there_is_no_accuracy(tmp_path: Path) -> None:
    own = gate()
    unknown = Gate(own.unit, own.images, own.counts, own.changed)
    learned = Calibration('head.calibration', [0.0] * 6, [0.0] * 6, unknown)
    text = write_report({'a': BEFORE, 'b': AFTER}, tmp_path, calibrations=[learned]).read_text()
    assert 'by the class that scores highest before' in text
    assert 'whether that is right is not, either' in text
    assert 'stage 1 right' not in text and 'saved %' not in text and 'changed %' in text


def test_a_gate_that_was_not_observed_is_said_to_be_missing(tmp_path: Path) -> None:
    learned = Calibration('head.calibration', [0.0] * 6, [0.0] * 6)
    text = write_report({'a': BEFORE, 'b': AFTER}, tmp_path, calibrations=[learned]).read_text()
    assert 'σ(x) was not observed, so there are no figures of where it closes' in text
    assert 'Where the gate closes' not in text


def test_a_gate_that_saw_nothing_makes_a_page(tmp_path: Path) -> None:
    nothing = Gate('proposals', 3, *(np.zeros(shape, int) for shape in ((6, NUM_BINS), 6)))
    learned = Calibration('head.calibration', [0.0] * 6, [0.0] * 6, nothing)
    text = write_report({'a': BEFORE, 'b': AFTER}, tmp_path, calibrations=[learned]).read_text()
    assert 'No proposals of 3 images were seen.' in text
    assert not (tmp_path / 'figures/head.calibration_sigma.png').exists()
