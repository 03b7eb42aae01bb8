"""Trains the discriminator of an adversarial loss."""
import inspect
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from mmengine.dist import all_reduce_params, broadcast
from mmengine.registry import OPTIMIZERS
from torch import nn

from ..errors import ConfigError
from .loss_term import LossTerm

# A guard, not a part of the method: the usual norm is below 1, but the
# gradient penalty can run away within a few steps and take the student along.
MAX_GRADIENT = 10.0


class DiscriminatorTrainer:
    """Trains the discriminator of a term after each iteration.

    Also where the student accumulates gradients: it makes a step for every
    batch that it has seen.

    The discriminator is no part of the student, so neither DDP nor the
    student's optimizer knows it: its start is broadcast from rank 0 and its
    gradients are averaged over the ranks here. Its learning rate follows the
    student's schedule in proportion.

    Args:
        term (LossTerm): With a loss and a built ``discriminator`` for each
            pair of levels.
    """

    def __init__(self, term: LossTerm) -> None:
        self.losses: Any = term.level_losses
        for tensor in self.losses.state_dict().values():
            broadcast(tensor, src=0)
        cfg: Any = term.loss.optimizer_cfg
        try:
            self.optimizer: torch.optim.Optimizer = OPTIMIZERS.build(
                dict(cfg, params=self.losses.parameters()))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f'{term.key}.optimizer = {cfg!r}: {error}') from error
        closure = inspect.signature(self.optimizer.step).parameters['closure']
        if closure.default is closure.empty:
            raise ConfigError(f'{term.key}.optimizer = {cfg!r}: needs to '
                              'compute the loss several times in a step')
        for name, value in self.optimizer.param_groups[0].items():
            if isinstance(value, Real) and not 0 <= float(value) < math.inf:
                raise ConfigError(f'{term.key}.optimizer = {cfg!r}: {name} '
                                  'must be a finite number of 0 or more')
        self.base_lrs = [group['lr'] for group in self.optimizer.param_groups]
        self._seen: list[tuple[float, Any, Any]] = []

    def see(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
            image: torch.Tensor, share: float = 1.) -> None:
        """Keep the maps of a batch for :meth:`step`.

        Args:
            pairs (Sequence[tuple]): Of each level, student's and teacher's.
            image (Tensor): The input.
            share (float): Its weight beside the other batch of an iteration.
        """
        if share:
            self._seen.append((
                share, [(s.detach(), t.detach()) for s, t in pairs], image))

    def forget(self) -> None:
        """The maps of a forward pass that no step followed."""
        self._seen = []

    def step(self, lr_factor: float) -> torch.Tensor | None:
        """One step on the maps seen, if there are any; gives its loss."""
        if not self._seen:
            return None
        seen, self._seen = self._seen, []
        loss: Any = sum(
            share * one.discriminator_loss(s, t, image=image)
            for share, pairs, image in seen
            for one, (s, t) in zip(self.losses, pairs))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = list(self.losses.parameters())
        all_reduce_params(
            [p.grad for p in parameters if p.grad is not None], op='mean')
        norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT)
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs):
            group['lr'] = base_lr * lr_factor
        if torch.isfinite(norm):
            self.optimizer.step()
        for one in self.losses:
            one.end_turn()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        return dict(
            losses=self.losses.state_dict(),
            optimizer=self.optimizer.state_dict(),
            kind=type(self.optimizer).__name__)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        kind = type(self.optimizer).__name__
        if state.get('kind', kind) != kind:
            raise ValueError(f'the state of {state["kind"]}, not of {kind}')
        self.losses.load_state_dict(state['losses'])
        self.optimizer.load_state_dict(state['optimizer'])
