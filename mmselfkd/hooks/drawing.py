"""Pictures of maps and matrices of student and teacher, side by side.

Both sides of a pair have the same colours, which a bar explains. They need no
screen.
"""
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

DPI = 100
PANEL, LEAST, MOST = 3.2, 1.2, 4.5  # inches: width, and limits of the height
LABELS = 40  # more classes than these have no names at the axes
NUMBERS = 12  # a matrix of at most these has its numbers in the cells

Pair = tuple[np.ndarray, np.ndarray]  # of the student, of the teacher


class Scale(NamedTuple):
    """What values are shown by which colours.

    Args:
        label (str): What is shown.
        colours (str): A colour map of matplotlib.
        least, most (float | None): Ends; None: those of both sides.
        whole (float): So many percent of the values lie below ``most`` where
            it is None.
    """

    label: str
    colours: str = 'viridis'
    least: float | None = None
    most: float | None = None
    whole: float = 100.

    def limits(self, pair: Pair) -> tuple[float, float]:
        """The ends for these two; NaN and inf take no part."""
        values = np.concatenate([side.ravel() for side in pair])
        values = values[np.isfinite(values)]
        if not len(values):
            values = np.zeros(1)
        least = values.min() if self.least is None else self.least
        most = np.percentile(
            values, self.whole) if self.most is None else self.most
        return float(least), float(max(most, least + 1e-12))


def draw_maps(title: str, image: np.ndarray, rows: Sequence[tuple[str, Pair]],
              scale: Scale, names: Sequence[str],
              pixel: tuple[int, int] | None = None) -> np.ndarray:
    """Maps over a grey image, a row for each pair.

    Args:
        title (str): Above all.
        image (np.ndarray): (H, W, 3), RGB, from 0 to 1.
        rows (Sequence[tuple]): Label and maps (h, w) of each pair.
        scale (Scale): Of the maps. Each row has limits of its own.
        names (Sequence[str]): Of the two sides.
        pixel (tuple, optional): x and y of a cross, in pixels of the image.

    Returns:
        np.ndarray: (H, W, 3), RGB, uint8.
    """
    height, width = image.shape[:2]
    tall = float(np.clip(PANEL * height / width, LEAST, MOST))
    figure = _figure(3 * PANEL + 1, len(rows) * (tall + .35) + .4)
    grid = figure.subplots(len(rows), 3, squeeze=False)
    extent = (-.5, width - .5, height - .5, -.5)
    for axes, (label, pair) in zip(grid, rows):
        least, most = scale.limits(pair)
        for one in axes:
            one.set_xticks([])
            one.set_yticks([])
            if pixel is not None:
                for colour, size in (('black', 3.5), ('white', 1.5)):
                    one.plot(*pixel, '+', color=colour, markersize=14,
                             markeredgewidth=size)
        axes[0].imshow(image, aspect='auto')
        axes[0].set_ylabel(label, fontsize=9)
        for one, side in zip(axes[1:], pair):
            one.imshow(image.mean(2), cmap='gray', vmin=0, vmax=1,
                       aspect='auto')
            shown = one.imshow(
                side, cmap=scale.colours, vmin=least, vmax=most, alpha=.65,
                extent=extent, interpolation='nearest', aspect='auto')
        bar = figure.colorbar(
            shown, ax=list(axes), pad=.01, aspect=14,
            extend='max' if scale.whole < 100 else 'neither')
        bar.solids.set_alpha(1)
        bar.ax.tick_params(labelsize=8)
    for one, name in zip(grid[0], ('input', *names)):
        one.set_title(name, fontsize=10)
    figure.suptitle(f'{title}: {scale.label}', fontsize=11)
    return _pixels(figure)


def draw_matrices(title: str, pair: Pair, classes: Sequence[str],
                  scale: Scale, names: Sequence[str]) -> np.ndarray:
    """Two matrices (K, K) of classes.

    Args:
        title (str): Above both.
        pair (tuple): Matrices of student and teacher.
        classes (Sequence[str]): Names of the K classes.
        scale (Scale): Of their values.
        names (Sequence[str]): Of the two sides.

    Returns:
        np.ndarray: (H, W, 3), RGB, uint8.
    """
    side = float(np.clip(.32 * len(classes), 3, 7))
    figure = _figure(2 * side + 2, side + 1.2)
    axes = figure.subplots(1, 2)
    least, most = scale.limits(pair)
    # two digits each, however small the divergences are
    unit = 10. ** math.floor(math.log10(most)) if most > 0 else 1.
    heading = f'{title}: {scale.label}'
    if len(classes) <= NUMBERS and unit != 1:
        heading += f', numbers in {unit:g}'
    for one, matrix, name in zip(axes, pair, names):
        shown = one.imshow(matrix, cmap=scale.colours, vmin=least, vmax=most)
        one.set_title(name, fontsize=10)
        if len(classes) <= LABELS:
            one.set_xticks(range(len(classes)), classes, rotation=90,
                           fontsize=8)
            one.set_yticks(range(len(classes)), classes, fontsize=8)
        if len(classes) <= NUMBERS:
            for (i, j), value in np.ndenumerate(matrix):
                dark = value < (least + most) / 2
                one.text(j, i, f'{value / unit:.1f}', ha='center', va='center',
                         fontsize=7, color='white' if dark else 'black')
    bar = figure.colorbar(shown, ax=list(axes), pad=.01)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(heading, fontsize=11)
    return _pixels(figure)


def _figure(width: float, height: float) -> Any:
    """An empty one, in inches. Imported here, since few runs draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), dpi=DPI, layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def _pixels(figure: Any) -> np.ndarray:
    """What is drawn, (H, W, 3), RGB."""
    figure.canvas.draw()
    return np.array(figure.canvas.buffer_rgba())[..., :3].copy()
