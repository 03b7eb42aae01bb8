"""The page of a comparison: what is on it, and that it needs nothing else."""
import base64
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import report
from comparison_runs import CLASSES, write_run

from mmselfkd.comparison import figures
from mmselfkd.comparison.results import TEACHER, read_results

BROWSERS = 'chromium', 'chromium-browser', 'google-chrome', 'chrome'
CONFUSION = [[90, 10], [40, 60]]


@pytest.fixture(scope='module')
def folder(root, tmp_path_factory):
    """Two methods, two seeds, a failure and a teacher."""
    folder = tmp_path_factory.mktemp('runs')
    config = root / 'configs' / 'toy' / 'fpn_r18-w8_1xb8-1k_toy-64x64.py'
    for seed in (0, 1):
        for i, name in enumerate(('plain student', 'NFDHook')):
            made = write_run(
                folder, name, seed, 40. + i + seed * i,
                losses=(3., 2., 1. + seed), iterations=30,
                classes=(60. + 3 * i, 20. + seed * i), config=config,
                confusion=CONFUSION)
            if i:
                facts = made / 'facts.json'
                facts.write_text(json.dumps(dict(
                    json.loads(facts.read_text()), advice=['raise <it>'])))
    failed = write_run(folder, 'SKDHook:a.b=<c>', 0, losses=())
    (failed / 'failure.txt').write_text('boom & bust')
    write_run(folder, TEACHER, 0, 70.)
    return folder


@pytest.fixture(scope='module')
def page(folder):
    argv = sys.argv
    sys.argv = ['report.py', str(folder), '--title', 'Mine & yours']
    try:
        report.main()
    finally:
        sys.argv = argv
    return folder / 'report.html'


class Tags(HTMLParser):
    """The tags of a page, its images, and its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.text, self.links = [], {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == 'img':
            self.images[attrs['alt']] = attrs['src']
        elif tag not in ('meta', ):
            self.open.append(tag)
        self.links += [attrs[key] for key in ('src', 'href') if key in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_it_holds_everything_in_itself(page):
    text = page.read_text()
    tags = Tags(text)
    assert tags.open == []
    assert tags.links and all(link.startswith('data:image/')
                              for link in tags.links)
    assert '<script' not in text and 'url(' not in text
    assert '@import' not in text


def test_what_is_on_it(page):
    tags = Tags(page.read_text())
    text = ' '.join(' '.join(tags.text).split())
    for part in ('Mine & yours', 'NFDHook 2 of 2 41.50', '+1.50 ± 6.35',
                 'teacher 1 of 1 70.00', 'raise <it>', 'NFDHook, seed 1',
                 'SKDHook:a.b=<c>, seed 0: failed: boom & bust',
                 'SKDHook:a.b=<c>, seed 1: missing', 'No pictures'):
        assert part in text, part
    assert list(tags.images) == [
        'gain of each class with its interval; the numbers are in the table '
        'below', *(f'{name} over the iterations' for name in (
            'mIoU', 'task loss', 'distill.loss_x', 'distill.agreement')),
        'confusion of plain student', 'confusion of NFDHook']
    gain = svg_text(next(iter(tags.images.values())))
    assert all(name in gain for name in (*CLASSES, 'NFDHook'))
    assert '40' in svg_text(tags.images['confusion of NFDHook'])


def svg_text(link):
    return base64.b64decode(link.partition(',')[2]).decode()


def test_curves(folder):
    """The mean over the seeds, and its band, in the order of the steps."""
    group, = read_results([folder]).groups
    drawn = {}
    original = figures.as_svg

    def keep(figure):
        axes, = figure.axes
        drawn[axes.get_title()] = axes
        return original(figure)

    figures.as_svg = keep
    try:
        list(figures.curves(group))
    finally:
        figures.as_svg = original
    axes = drawn["loss of the student's own task"]
    plain = axes.lines[0]
    assert list(plain.get_xdata()) == [10, 20, 30]
    assert list(plain.get_ydata()) == [3., 2., 1.5]
    band = axes.collections[0].get_paths()[0].vertices
    assert {1., 2.} == {y for x, y in band if x == 30}
    assert [line.get_label() for line in drawn['distill.loss_x'].lines
            ] == ['NFDHook']


def test_methods_differ_without_colour():
    looks = figures.styles([str(i) for i in range(len(figures.STYLES))])
    for key in ('linestyle', 'marker'):
        assert len({str(look[key]) for look in looks.values()}) == len(looks)


def test_an_interval_wider_than_the_picture(folder):
    """Two seeds may have any interval; the points stay apart."""
    group, = read_results([folder]).groups
    assert figures.gains(group).count('<svg') == 1


def test_long_names_and_no_plain_student(tmp_path):
    """A variant's name takes lines below the curves, not their place."""
    name = 'NFDHook:' + ':'.join(
        f'losses.loss_nfd.schedule.{key}=1' for key in ('begin', 'end'))
    write_run(tmp_path, name, 0, 40.)
    group, = read_results([tmp_path]).groups
    assert figures.gains(group) is None
    for _, figure in figures.curves(group):
        words = re.findall(r'<text[^>]*>([^<]*)<', figure)
        assert 'NFDHook: losses.loss_nfd.schedule.begin=1:' in words
        assert max(map(len, words)) <= figures.LABEL


def test_without_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['report.py', str(tmp_path)])
    with pytest.raises(SystemExit, match='no run of a comparison'):
        report.main()


@pytest.mark.parametrize('width', [360, 1280])
def test_in_a_browser(page, tmp_path, width):
    """Every picture is shown, and nothing is wider than the window."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f'none of {", ".join(BROWSERS)} is installed')
    measured = (
        '<script>addEventListener("load", () => parent.postMessage(['
        'document.documentElement.scrollWidth, innerWidth, '
        'document.images.length, [...document.images].filter('
        'i => i.complete && i.naturalWidth > 0 && i.width <= innerWidth'
        ').length, matchMedia("(max-width: 40rem)").matches], "*"))</script>')
    (tmp_path / 'page.html').write_text(
        page.read_text().replace('</body>', measured + '</body>'))
    outer = tmp_path / 'outer.html'
    outer.write_text(
        '<script>onmessage = e => document.body.textContent = '
        '"measured " + JSON.stringify(e.data)</script>'
        f'<body><iframe width={width} height=800 style="border: 0" '
        'src=page.html></iframe>')
    run = subprocess.run(
        [browser, '--headless', '--no-sandbox', '--disable-gpu',
         f'--user-data-dir={tmp_path / "profile"}', '--window-size=1400,900',
         '--virtual-time-budget=4000', '--dump-dom', outer.as_uri()],
        capture_output=True, text=True, timeout=200)
    found = re.search(r'measured (\[.*?\])', run.stdout)
    assert found, run.stdout[-500:] + run.stderr[-500:]
    whole, inner, images, shown, narrow = json.loads(found[1])
    assert inner in (width, width - 15) and whole <= inner
    assert images == shown == 7 and narrow == (width < 640)
