"""The value of one entry of ``losses`` in an iteration."""
import copy
from collections.abc import Callable
from typing import Any

import torch
from mmengine.logging import MMLogger
from torch import nn

from ..errors import ConfigError, blamed_on
from ..layout import BatchLayout
from .level_matching import LevelMatcher, Pairs
from .loss_config import LossConfig


class LossTerm:
    """A loss on its matched levels.

    Args:
        config (LossConfig): What the user asks for.
        matcher (LevelMatcher): Fitted to one rehearsed batch.
        pairs (list[tuple]): The matched levels of that batch.
        image (Tensor): Its input (N, C, H, W).
        part (Callable, optional): Of the teacher, where the loss passes
            features through its classifier or the rest of its head.

    Attributes:
        level_losses (nn.ModuleList): A copy of the loss for each pair of
            levels where it has parameters or buffers; else empty.
        trained (nn.ModuleDict): What is trained along with the student:
            adapters and the losses' own parameters. Discriminators have a
            turn of their own and are not among them.

    Raises:
        ConfigError: The loss would be constant, or cannot be computed.
    """

    def __init__(self, config: LossConfig, matcher: LevelMatcher,
                 pairs: Pairs, image: torch.Tensor,
                 part: Callable[..., Any] | None = None) -> None:
        self.config, self.matcher = config, matcher
        self._part = part
        self.name, self.key, self.loss = config.name, config.key, config.loss
        self._check(pairs)
        one_each = []
        for s, t in pairs:
            loss = copy.deepcopy(self.loss)
            with blamed_on(self.key):
                loss.build(s, t, image)
            one_each.append(loss)
        has_state = any(loss.state_dict() for loss in one_each)
        self.level_losses = nn.ModuleList(
            one_each if has_state or self.loss.is_adversarial else [])
        self.level_losses.to(image.device)
        self.trained = nn.ModuleDict()
        if list(self.adapters.parameters()):
            self.trained['adapters'] = self.adapters
        if has_state and not self.loss.is_adversarial:
            self.trained['losses'] = self.level_losses

    @property
    def adapters(self) -> nn.ModuleList:
        """The convolutions in front of the loss."""
        return self.matcher.adapters

    def _check(self, pairs: Pairs) -> None:
        """Refuse what is constant at every level, say where one is."""
        refused: dict[int, ValueError] = {}
        with blamed_on(self.key):
            for number, (s, t) in enumerate(pairs):
                try:
                    self.loss.check(s, t)
                except ValueError as error:
                    refused[number] = error
        for number, reason in refused.items():
            if len(refused) == len(pairs):
                raise ConfigError(f'{self.key}: {reason}') from reason
            MMLogger.get_current_instance().warning(
                f'{self.key}: level {number} (0 to {len(pairs) - 1}) of what '
                f'it looks at teaches nothing: {reason}')

    def check_cost(self, pairs: Pairs, share: float) -> None:
        """Refuse what no run gets through, warn of what will be slow.

        Args:
            pairs (list[tuple]): The matched levels of the rehearsed batch.
            share (float): A full batch is so many times that.

        Raises:
            ConfigError: A step would take too long.
        """
        for s, t in pairs:
            with blamed_on(self.key):
                advice = self.loss.check_cost(int(len(s) * share), s, t)
            if advice is not None:
                MMLogger.get_current_instance().warning(
                    f'{self.key}: {advice}')

    def value(self, pairs: Pairs, label: torch.Tensor | None,
              image: torch.Tensor, layout: BatchLayout,
              positives: torch.Tensor | None = None) -> torch.Tensor:
        """The unweighted loss over the pairs of levels.

        Args:
            pairs (list[tuple]): Matched levels.
            label (Tensor, optional): The class maps that go with them.
            image (Tensor): The student's input.
            layout (BatchLayout): What of it is image.
            positives (Tensor, optional): By which the student's own class
                loss is divided, where the loss needs it.
        """
        if self.loss.levels_together:
            return self._scalar(self.loss(
                *map(list, zip(*pairs)),
                **self._joint_options(pairs, layout, positives)))
        losses = self.level_losses or [self.loss] * len(pairs)
        total = torch.zeros((), device=image.device)
        extra: list[dict[str, Any]] = [{} for _ in pairs]
        if self.loss.needs_regions:
            extra = [dict(regions=each) for each in layout.regions(
                [s.shape[2:] for s, _ in pairs])]
        for loss, (s, t), regions in zip(losses, pairs, extra):
            if not s.numel():  # no RoI at all: one that says nothing, since
                total = total + s.sum()  # the ranks must call a loss alike
                s = t = s.new_zeros((1, *s.shape[1:]))
            total = total + self._scalar(loss(s, t, **self._options(
                s, label, image, layout), **regions))
        if self.loss.level_reduction == 'mean':
            total = total / len(pairs)
        return total

    def _scalar(self, value: Any) -> torch.Tensor:
        """What a loss gave, if that is one number.

        Raises:
            TypeError: It is something else.
        """
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            what = (f'a tensor of shape {tuple(value.shape)}' if isinstance(
                value, torch.Tensor) else f'a {type(value).__name__}')
            raise TypeError(f'{self.config.loss_name} returned {what}; a '
                            'scalar tensor is needed')
        return value.reshape(())

    def _options(self, level: torch.Tensor, label: torch.Tensor | None,
                 image: torch.Tensor, layout: BatchLayout
                 ) -> dict[str, Any]:
        """What the loss asks for beside the two maps."""
        anchors = len(level) // len(image) if self.matcher.is_map else 1
        options: dict[str, Any] = {}
        if self.loss.needs_label:
            options['label'] = _repeated(self.matcher.label(label), anchors)
        if self.loss.needs_image:
            options['image'] = image
        if self.loss.needs_objects:
            options['objects'] = layout.objects(level.shape[2:])
        if self.loss.needs_classifier:
            options['classifier'] = self._part
        if self.loss.takes_weight and self.matcher.is_map:
            options['weight'] = _repeated(layout.weight(
                level.shape[2:], self.config.foreground), anchors)
        return options

    def _joint_options(self, pairs: Pairs, layout: BatchLayout,
                       positives: torch.Tensor | None) -> dict[str, Any]:
        """The same of a loss that takes all levels at once."""
        options: dict[str, Any] = {}
        if self.loss.needs_head:
            options['head'] = self._part
        if self.loss.needs_positives:
            options['positives'] = positives
        if self.loss.takes_weight:
            options['weight'] = [layout.weight(
                s.shape[2:], self.config.foreground) for s, _ in pairs]
        return options

    def zero(self, device: torch.device) -> torch.Tensor:
        """An exact 0 that reaches what is trained, so that DDP misses none."""
        zero = torch.zeros((), device=device)
        for parameter in self.trained.parameters():
            zero = zero + parameter.sum() * 0
        return zero


def _repeated(maps: torch.Tensor | None,
              anchors: int) -> torch.Tensor | None:
    """Each image's map once for each of its anchors."""
    if maps is None or anchors == 1:
        return maps
    return maps.repeat_interleave(anchors, 0)
