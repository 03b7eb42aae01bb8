"""Pictures of what the distillation losses compare, during training."""
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from ..checks import check_bool, check_integer, is_integer
from ..distillation import DistillationRun
from ..distillation.loss_term import LossTerm
from ..errors import ConfigError, config_errors, nearest
from ..hosts import host_of
from ..losses.icsd_loss import class_divergences
from ..registry import register_hook
from ..sources import STUDENT
from ..teachers import BatchContext
from .distill_hook import DistillHook
from .drawing import Scale, draw_maps, draw_matrices
from .setup import batch_size, class_names

KINDS = ('maps', 'similarity', 'classes')
PROBABILITY = Scale('highest probability of a class', least=0, most=1)
VALUE = Scale('value')
ENERGY = Scale('mean square of the channels, over its mean in the image',
               least=0, whole=99)
SIMILARITY = Scale('cosine similarity to the pixel at the cross', 'coolwarm',
                   -1, 1)
DIVERGENCE = Scale('divergence KL(row || column) of the class maps', 'magma',
                   0)

Levels = list[tuple[torch.Tensor, torch.Tensor]]


class _Seen(NamedTuple):
    """What a loss compared in one image: levels (A, C, h, w), A anchors."""

    term: LossTerm
    number: int  # of the image
    image: np.ndarray
    levels: Levels


@register_hook
class DistillVisualizationHook(Hook):
    r"""Draws student and teacher as the losses of a run see them.

    Every ``interval`` iterations, the first one included, it writes pictures
    of the training batch through the Visualizer of the run to its backends
    (files, TensorBoard, W&B). They show the levels that the step itself has
    compared: behind the adapter, with the teacher at the student's size. The
    student is the same with this hook and without.

    - ``'maps'``: over the image, of class scores the highest probability, of
      a single channel its value, of other features the mean square of the
      channels :math:`e = \frac1C \sum_c x_c^2`, divided by its mean over the
      image. Where a head has several anchors, over these too.
    - ``'similarity'``: the cosine of the vector at ``pixel`` and that of
      every other position.
    - ``'classes'``: of class scores the matrix of ICSD,
      :math:`D_{ij} = KL(p_i \| p_j)` of the class maps :math:`p_i`, each a
      softmax over the positions.

    Student and teacher have the same colours. The names are
    ``distill_<loss>_<kind>``, with ``_image<i>`` for an image that is not the
    first; the step is the number of iterations done.

    Args:
        interval (int): Iterations between two pictures. Defaults to 500.
        source (str | list[str], optional): Sources of the student, as the
            losses have them (``'logits'``). Losses that look there are drawn.
            None: all.
        kinds (str | list[str]): Any of the above. Defaults to all.
        pixel (tuple): x and y: shares of width and height of the image where
            both are floats from 0 to 1, pixels of the student's input where
            both are integers; beyond its border the last one. Defaults to
            (0.5, 0.5).
        indices (int | list[int]): Which images of a batch. Defaults to 0.
        draw (bool): False: nothing is drawn. Defaults to True.

    Raises:
        ConfigError: Before the first iteration: an argument that cannot work,
            or a run without a distillation hook.
    """

    def __init__(self, interval: int = 500,
                 source: str | Sequence[str] | None = None,
                 kinds: str | Sequence[str] = KINDS,
                 pixel: Sequence[float] = (0.5, 0.5),
                 indices: int | Sequence[int] = 0, draw: bool = True,
                 **unknown: Any) -> None:
        name = type(self).__name__
        for argument, value in unknown.items():
            raise ConfigError(
                f'{name}.{argument} = {value!r}: no such argument' +
                nearest(argument, ('interval', 'source', 'kinds', 'pixel',
                                   'indices', 'draw')))
        with config_errors():
            check_integer(f'{name}.interval', interval, 1)
            check_bool(f'{name}.draw', draw)
        self.interval, self.draw = interval, draw
        self.sources = None if source is None else _listed(source)
        self.kinds, self.indices = _listed(kinds), _listed(indices)
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f'{name}.kinds = {kinds!r}: {kind!r} is '
                                  'none' + nearest(kind, KINDS))
        for index in self.indices:
            if not is_integer(index) or index < 0:
                raise ConfigError(f'{name}.indices = {indices!r}: integers '
                                  'of 0 or more are needed')
        self.pixel = _checked_pixel(pixel, f'{name}.pixel')
        self._terms: list[LossTerm] = []
        self._seen: list[_Seen] = []
        self._is_due = False

    def before_train(self, runner: Any) -> None:
        """Choose the losses that are drawn."""
        self._terms = []
        if not self.draw:
            return
        name, run = type(self).__name__, _run_of(runner)
        if run is None:
            raise ConfigError(
                f'custom_hooks: {name} draws what distillation losses '
                'compare, and this run has no distillation hook; add one, '
                "such as dict(type='mmselfkd.NFDHook', teacher=...)")
        size = batch_size(runner.train_dataloader)
        if size is not None and max(self.indices, default=0) >= size:
            raise ConfigError(
                f'{name}.indices = {self.indices!r}: a batch has {size} '
                f'images, 0 to {size - 1}')
        self._terms = self._chosen(run, runner.logger)
        if is_main_process():
            run.observers.append(self._see)

    def _chosen(self, run: DistillationRun, logger: Any) -> list[LossTerm]:
        """The losses that look at ``source`` and at maps of the image.

        Raises:
            ConfigError: None looks there.
        """
        name = type(self).__name__
        known = {path for term in run.terms
                 for _, path in term.config.student_sources}
        for source in self.sources or ():
            if known and source not in known:
                raise ConfigError(f'{name}.source = {source!r}: no loss looks '
                                  'at it' + nearest(source, known))
        chosen = []
        for term in run.terms:
            sources = term.config.student_sources
            if self.sources is not None and not {
                    path for _, path in sources} & set(self.sources):
                continue
            if not term.matcher.is_map or term.matcher.place.queries:
                reason = 'regions or queries, which have no place in the image'
            elif any(owner != STUDENT for owner, _ in sources):
                reason = 'what a teacher made of other images'
            else:
                chosen.append(term)
                continue
            logger.info(f'{name}: distill.{term.name} is not drawn: it looks '
                        f'at {reason}')
        return chosen

    def before_train_iter(self, runner: Any, batch_idx: int,
                          data_batch: Any = None) -> None:
        self._is_due = runner.iter % self.interval == 0

    def _see(self, term: LossTerm, levels: Levels,
             context: BatchContext) -> None:
        """Keep what a loss compares in the chosen images."""
        if not self._is_due or term not in self._terms:
            return
        for index in self.indices:
            if index >= len(context.inputs):
                continue
            sizes = context.layout.shapes
            height, width = sizes[index] if sizes else context.layout.size
            total = context.layout.size
            reach = height / total[0], width / total[1]
            self._seen.append(_Seen(
                term, index, _image_of(context, index)[:height, :width],
                [(_of_image(ours, index, len(context.inputs), reach),
                  _of_image(theirs, index, len(context.inputs), reach))
                 for ours, theirs in levels]))

    def after_train_iter(self, runner: Any, batch_idx: int,
                         data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Draw what this iteration has compared."""
        seen, self._seen = self._seen, []
        for one in seen:
            for kind, picture in self._pictures(one, class_names(runner)):
                image = f'_image{one.number}' if one.number else ''
                runner.visualizer.add_image(
                    f'distill_{one.term.name}_{kind}{image}', picture,
                    runner.iter)

    def _pictures(self, seen: _Seen, classes: Sequence[str] | None
                  ) -> Iterator[tuple[str, np.ndarray]]:
        config = seen.term.config
        names = [f'{sources[0].owner}: {", ".join(p for _, p in sources)}'
                 for sources in (config.student_sources,
                                 config.teacher_sources)]
        title = f'distill.{seen.term.name}'
        sizes = [f'{s.shape[2]} x {s.shape[3]}' for s, _ in seen.levels]

        def drawn(scale: Scale, pairs: list, pixel: Any = None) -> np.ndarray:
            return draw_maps(title, seen.image, list(zip(sizes, pairs)),
                             scale, names, pixel)

        if 'maps' in self.kinds:
            scale = _scale_of(seen)
            yield 'maps', drawn(scale, [
                tuple(_reduced(side, scale, seen.term) for side in pair)
                for pair in seen.levels])
        if 'similarity' in self.kinds and seen.levels[0][0].shape[1] > 1:
            x, y = _pixel_in(self.pixel, seen.image.shape)
            at = (x + .5) / seen.image.shape[1], (y + .5) / (
                seen.image.shape[0])
            yield 'similarity', drawn(SIMILARITY, [
                tuple(similarity(side, at) for side in pair)
                for pair in seen.levels], (x, y))
        if 'classes' in self.kinds and _is_of_classes(seen):
            for number, pair in enumerate(seen.levels):
                level = f'{number}' if len(seen.levels) > 1 else ''
                yield f'classes{level}', draw_matrices(
                    title, _both(pair), self._class_names(seen, classes),
                    DIVERGENCE, names)

    @staticmethod
    def _class_names(seen: _Seen,
                     classes: Sequence[str] | None) -> list[str]:
        numbers = seen.term.matcher.partners or range(
            seen.levels[0][0].shape[1])
        known = list(classes or ())
        return [known[i] if i < len(known) else str(i) for i in numbers]


def _both(pair: tuple[torch.Tensor, torch.Tensor]
          ) -> tuple[np.ndarray, np.ndarray]:
    """The matrices of ICSD, the mean over the anchors."""
    ours, theirs = (class_divergences(side, 1., None)[0].mean(0).numpy()
                    for side in pair)
    return ours, theirs


def _is_of_classes(seen: _Seen) -> bool:
    """Losses on class scores take box distributions (GFL) too."""
    reading = seen.term.matcher.place.reading
    return (seen.term.loss.channels == 'classes'
            and (reading is None or reading.kind == 'classes')
            and seen.levels[0][0].shape[1] > 1)


def _scale_of(seen: _Seen) -> Scale:
    if seen.levels[0][0].shape[1] == 1:
        return VALUE
    return PROBABILITY if _is_of_classes(seen) else ENERGY


def _reduced(level: torch.Tensor, scale: Scale, term: LossTerm) -> np.ndarray:
    """A level (A, C, h, w) as one map (h, w)."""
    if scale is VALUE:
        return level.mean((0, 1)).numpy()
    if scale is PROBABILITY:
        level = level.sigmoid() if term.loss.activation == 'sigmoid' else (
            level.softmax(1))
        return level.amax((0, 1)).numpy()
    energy = level.square().mean((0, 1))
    return (energy / energy.mean().clamp(min=1e-12)).numpy()


def similarity(level: torch.Tensor, at: tuple[float, float]) -> np.ndarray:
    """The cosine of the vector at a point and those of all positions.

    Args:
        level (Tensor): (A, C, h, w); a vector has all A * C values.
        at (tuple): x and y as shares of width and height, in [0, 1].

    Returns:
        np.ndarray: (h, w), in [-1, 1].

    Example:
        >>> import torch
        >>> level = torch.tensor([[[[1., 0.]], [[1., 2.]]]])
        >>> similarity(level, (0., 0.)).round(2).tolist()[0][0]
        1.0
    """
    vectors = torch.nn.functional.normalize(level.flatten(0, 1), dim=0)
    height, width = vectors.shape[1:]
    x, y = (min(int(share * size), size - 1)
            for share, size in zip(at, (width, height)))
    return torch.einsum('chw,c->hw', vectors, vectors[:, y, x]).numpy()


def _of_image(level: torch.Tensor, index: int, images: int,
              reach: tuple[float, float]) -> torch.Tensor:
    """The part of one image, without its padding, in float32 on the CPU."""
    anchors = len(level) // images
    level = level.detach()[index * anchors:(index + 1) * anchors]
    height, width = (max(math.ceil(size * share - 1e-6), 1)
                     for size, share in zip(level.shape[2:], reach))
    return level[..., :height, :width].float().cpu().clone()


def _image_of(context: BatchContext, index: int) -> np.ndarray:
    """An image (H, W, 3) before it was normalised, RGB, from 0 to 1."""
    form = host_of(context.student).input_format(context.student)
    mean, std = form.statistics()
    image = (context.inputs[index].detach().float().cpu() * std + mean).numpy()
    if len(image) != 3:
        image = np.repeat(image.mean(0, keepdims=True), 3, 0)
    elif not form.is_swapped:  # pipelines read BGR
        image = image[::-1]
    if image.max() > 2:
        image = image / 255
    return np.clip(image.transpose(1, 2, 0), 0, 1)


def _run_of(runner: Any) -> DistillationRun | None:
    """The distillation that is under way."""
    return next((hook.run for hook in runner.hooks
                 if isinstance(hook, DistillHook) and hook.run is not None),
                None)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _checked_pixel(pixel: Any, key: str) -> tuple[float, float]:
    values = list(pixel) if isinstance(pixel, (list, tuple)) else []
    if len(values) == 2 and (
            all(is_integer(v) and v >= 0 for v in values)
            or all(isinstance(v, float) and 0 <= v <= 1 for v in values)):
        return values[0], values[1]
    raise ConfigError(f'{key} = {pixel!r}: two floats from 0 to 1 (shares of '
                      'width and height) or two integers of 0 or more '
                      '(pixels) are needed')


def _pixel_in(pixel: tuple[float, float],
              shape: Sequence[int]) -> tuple[int, int]:
    """Column and row of the pixel in an image of this shape."""
    x, y = (min(int(value * size) if isinstance(value, float) else int(value),
                size - 1) for value, size in zip(pixel, (shape[1], shape[0])))
    return x, y
