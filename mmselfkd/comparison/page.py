"""One HTML page of a comparison, which needs no other file."""
import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from mmengine.config import Config

from .. import __version__
from . import figures, pictures
from .logs import metric_of
from .results import PLAIN, Group, Results
from .tables import HOW, NONE, written, written_parts


def render(results: Results, title: str, trust: bool = False) -> str:
    """The page.

    Args:
        results (Results): What it shows.
        title (str): Its heading.
        trust (bool): Whether checkpoints, from which the pictures are made,
            may run code.
    """
    environment = Environment(
        loader=PackageLoader('mmselfkd.comparison', '.'), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(svg=_svg, png=_png)
    return environment.get_template('page.html.jinja').render(
        title=title, version=__version__, how=HOW, none=NONE, plain=PLAIN,
        date=f'{datetime.now():%Y-%m-%d %H:%M}', warnings=results.warnings,
        groups=[_group(group, trust) for group in results.groups])


def _group(group: Group, trust: bool) -> dict[str, Any]:
    """What the template shows of a group."""
    classes = _classes(group)
    rows, gone = _pictures(group, trust)
    return dict(
        metric=metric_of(group.metric or 'metric').title,
        table=written(group), parts=written_parts(group),
        gains=figures.gains(group), curves=list(figures.curves(group)),
        confusions=list(figures.confusions(group, classes)),
        rows=rows, gone=gone,
        advice=[(f'{name}, seed {seed}', run.facts['advice'])
                for name, runs in group.methods().items()
                for seed, run in sorted(runs.items())
                if run.facts.get('advice')],
        colours=_colours(group, classes))


def _classes(group: Group) -> Sequence[str]:
    for run in group.runs:
        if run.evaluation.get('classes'):
            return list(run.evaluation['classes'])
    return []


def _pictures(group: Group, trust: bool
              ) -> tuple[list[pictures.PictureRow], str]:
    """The rows, and why there are no more."""
    rows = []
    try:
        for row in pictures.make_rows(group, trust):
            rows.append(row)
    except (ValueError, OSError, RuntimeError) as error:
        return rows, f'No more pictures: {error}'
    return rows, '' if rows else (
        'No pictures: no image was predicted better or worse than by the '
        'plain student, or how each was predicted is not known.')


def _colours(group: Group, classes: Sequence[str]) -> list[tuple[str, str]]:
    """The classes of a segmentation with the colours of the pictures."""
    from mmengine.registry import DATASETS, init_default_scope
    if not any(run.evaluation.get('confusion') for run in group.runs):
        return []
    cfg = Config.fromfile(group.runs[0].plan.config)
    init_default_scope(cfg.get('default_scope'))
    kind = DATASETS.get(cfg.val_dataloader.dataset.type)
    palette = getattr(kind, 'METAINFO', {}).get('palette') or []
    return [(name, '#{:02x}{:02x}{:02x}'.format(*colour))
            for name, colour in zip(classes, palette)]


def _svg(text: str) -> str:
    """The address that holds a picture itself."""
    return 'data:image/svg+xml;base64,' + base64.b64encode(
        text.encode()).decode()


def _png(image: Any) -> str:
    return 'data:image/png;base64,' + base64.b64encode(
        pictures.png(image)).decode()
