"""The two branches of a dense head, and what follows a split of them."""
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from .heads import activation_of
from .places import Place

BRANCHES = 'branches'  # of a source, such as 'branches.-1'
POSITIVES = 'positives'  # the source of what a loss is divided by
OTHERWISE = ("use a loss on features, type='PKDLoss' with "
             "source='features', or a method such as PKDHook")
# by the class that runs both branches of a level, the layers at their ends
LAYERS = dict(
    RetinaHead=('retina_cls', 'retina_reg'), GFLHead=('gfl_cls', 'gfl_reg'),
    ATSSHead=('atss_cls', 'atss_reg'), FCOSHead=('conv_cls', 'conv_reg'))
FARTHEST = 10.  # logarithm of pixels from a point to a side of its box


def is_branches(path: str) -> bool:
    """Whether a source means the branches of a head."""
    return path.partition('.')[0] == BRANCHES


def branches_place(head: Any, path: str, where: str, inputs: Place) -> Place:
    """What leaves a convolution of both branches, before its activation.

    Args:
        head (nn.Module): The head of a detector.
        path (str): ``'branches.3'``: of the third; ``'branches.0'``: the
            levels of the neck, for both branches; ``'branches.-1'``: of all
            but the last one.
        where (str): Config key and value, for the error.
        inputs (Place): The levels that enter the head.

    Returns:
        Place: Gives for each level a map of the class and one of the box
        branch.

    Raises:
        ConfigError: The head is none of :data:`LAYERS`, or has no such
            convolution.
    """
    _layers(head, where)
    split = _split(head, path, where)
    if split == 0:
        return Place(inputs.modules, select=lambda values: [
            level for level in values[-1] for _ in range(2)])
    convs = [branch[split - 1] for branch in (head.cls_convs, head.reg_convs)]
    if not all(conv.with_activation for conv in convs):
        return Place(convs)
    return Place([conv.activate for conv in convs], argument=0)


def positives_place(head: Any, where: str) -> Place:
    """By what the class loss of a head is divided, a number.

    Raises:
        ConfigError: It has no class loss.
    """
    missing = (f'the class loss of a {type(head).__name__} is not divided by '
               f'its positives (avg_factor); {OTHERWISE}')

    def select(values: list) -> list[torch.Tensor]:
        if values[-1] is None:
            raise ConfigError(f'{where}: {missing}')
        return [torch.as_tensor(values[-1], dtype=torch.float)]

    loss = getattr(head, 'loss_cls', None)
    if not isinstance(loss, nn.Module):
        raise ConfigError(f'{where}: {missing}')
    return Place([loss], argument='avg_factor', is_raw=True, select=select,
                 missing=missing)


class HeadEnd:
    """What a dense head makes of its branches behind a split.

    Args:
        head (nn.Module): One of :data:`LAYERS`, or a subclass that runs its
            branches alike.
        path (str): The source with the split.
        where (str): Config key and value, for the error.

    Raises:
        ConfigError: Another head, no such split, or scores of a softmax.
    """

    def __init__(self, head: Any, path: str, where: str) -> None:
        self._head = head
        classes, boxes = _layers(head, where)
        self._split = _split(head, path, where)
        self._branches = [
            (head.cls_convs, getattr(head, classes)),
            (head.reg_convs, getattr(head, boxes))]
        self._sides = getattr(head, 'reg_max', None)
        if activation_of(head) != 'sigmoid':
            raise ConfigError(
                f'{where}: the class scores of the {type(head).__name__} of '
                'the teacher are read by a softmax, and those of a sigmoid '
                f'are needed; {OTHERWISE}')

    def __call__(self, maps: Sequence[torch.Tensor]
                 ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Class scores and boxes of each level.

        Args:
            maps (Sequence[Tensor]): What :func:`branches_place` gives, for
                each level of the head the maps (N, C, H, W) of both branches.

        Returns:
            list[tuple[Tensor, Tensor]]: Scores (N, A, K, H, W), and boxes
            (N, A, 4, H, W) in pixels, x1 y1 x2 y2; or, of distributions, the
            scores of the bins of their sides (N, A, 4 * B, H, W).

        Raises:
            ValueError: The maps are not those of all levels.
        """
        levels = list(zip(maps[::2], maps[1::2]))
        generator = self._head.prior_generator
        if len(maps) != 2 * generator.num_levels:
            raise ValueError(
                f'{len(maps)} maps, but those of both branches of all '
                f'{generator.num_levels} levels are needed, without [i]')
        priors = generator.grid_priors(
            [level.shape[2:] for level, _ in levels], dtype=maps[0].dtype,
            device=maps[0].device)
        found = []
        for number, pair in enumerate(levels):
            scores, boxes = (self._run(x, *branch) for x, branch in zip(
                pair, self._branches))
            if hasattr(self._head, 'scales'):
                boxes = self._head.scales[number](boxes)
            scores = scores.unflatten(1, (-1, self._head.cls_out_channels))
            boxes = boxes.unflatten(1, (scores.shape[1], -1))
            found.append((scores, boxes if self._sides else self._decoded(
                boxes, priors[number], self._head.prior_generator.strides[
                    number][0])))
        return found

    def _run(self, x: torch.Tensor, convs: Any,
             layer: nn.Module) -> torch.Tensor:
        if self._split:
            conv = convs[self._split - 1]
            if conv.with_activation:  # it may work in place
                x = conv.activate(x.clone())
        for conv in convs[self._split:]:
            x = conv(x)
        return layer(x)

    def _decoded(self, values: torch.Tensor, priors: torch.Tensor,
                 stride: int) -> torch.Tensor:
        """Boxes of what the box layer gives (N, A, 4, H, W)."""
        is_normed = getattr(self._head, 'norm_on_bbox', None)
        if is_normed is not None:  # distances from a point to the sides
            values = values.clamp(min=0) * stride if is_normed else (
                values.clamp(max=FARTHEST).exp())
        rows = values.permute(0, 3, 4, 1, 2)
        boxes = self._head.bbox_coder.decode(
            priors.repeat(len(values), 1), rows.reshape(-1, rows.shape[-1]))
        return boxes.reshape(*rows.shape[:-1], 4).permute(0, 3, 4, 1, 2)


def _layers(head: Any, where: str) -> tuple[str, str]:
    runs = next((cls.__name__ for cls in type(head).__mro__
                 if 'forward_single' in vars(cls)), '')
    convs = [conv for name in ('cls_convs', 'reg_convs')
             for conv in getattr(head, name, ())]
    if runs not in LAYERS or not convs or not all(
            hasattr(conv, 'with_activation') for conv in convs):
        raise ConfigError(
            f'{where}: the head, a {type(head).__name__}, has not two '
            f'branches of convolutions in a row, as {", ".join(LAYERS)} and '
            f'what runs alike have by default; {OTHERWISE}')
    return LAYERS[runs]


def _split(head: Any, path: str, where: str) -> int:
    _, _, number = path.partition('.')
    count = min(len(head.cls_convs), len(head.reg_convs))
    try:
        split = int(number or -1)
    except ValueError:
        split = count + 1
    if not -count <= split <= count:
        raise ConfigError(
            f'{where}: the branches of this {type(head).__name__} have '
            f'{count} convolutions; branches.0 to branches.{count}, or '
            f'branches.-{count} to branches.-1, is allowed')
    return split if split >= 0 else count + split
