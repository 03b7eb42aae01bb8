"""The second player of an adversarial loss: its optimizer and its turn."""
from typing import Any, Dict, List, Tuple

import torch
from mmengine.dist import all_reduce_params, broadcast
from mmengine.registry import OPTIMIZERS
from torch import nn

from ..errors import ConfigError
from ..terms import Term

# A guard, not a part of the method: the usual norm is below 1, but the
# gradient penalty can run away within a few steps and take the student along.
MAX_GRADIENT = 10.0


class Adversary:
    """Trains the discriminator of a term after each step of the student.

    The discriminator is no part of the student, so neither DDP nor the
    student's optimizer knows it: its start is broadcast from rank 0 and its
    gradients are averaged over the ranks here. Its learning rate follows the
    student's schedule in proportion.

    Args:
        term (Term): A term whose loss has a built ``discriminator``.
    """

    def __init__(self, term: Term) -> None:
        self.term = term
        self.loss = term.loss
        module = self.loss.discriminator
        for tensor in module.state_dict().values():
            broadcast(tensor, src=0)
        try:
            self.optimizer = OPTIMIZERS.build({
                **self.loss.optimizer_cfg, 'params': module.parameters()
            })
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f'{term.key}.optimizer = '
                              f'{self.loss.optimizer_cfg!r}: {error}'
                              ) from error
        self.base_lrs = [group['lr'] for group in self.optimizer.param_groups]
        self._seen: List[Tuple[Any, Any, Any]] = []

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.loss.discriminator.parameters())

    def see(self, pairs, image: torch.Tensor) -> None:
        """Keep the maps of this iteration for :meth:`step`."""
        self._seen = [(s.detach(), t.detach(), image) for s, t in pairs]

    def step(self, lr_factor: float) -> None:
        """One step on the maps seen, if there are any."""
        if not self._seen:
            return
        seen, self._seen = self._seen, []
        loss = sum(
            self.loss.discriminator_loss(s, t, image=image)
            for s, t, image in seen)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = list(self.loss.discriminator.parameters())
        all_reduce_params(
            [p.grad for p in parameters if p.grad is not None], op='mean')
        norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT)
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs):
            group['lr'] = base_lr * lr_factor
        if torch.isfinite(norm):
            self.optimizer.step()

    def state_dict(self) -> Dict[str, Any]:
        return dict(
            loss=self.loss.state_dict(), optimizer=self.optimizer.state_dict())

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self.loss.load_state_dict(state['loss'])
        self.optimizer.load_state_dict(state['optimizer'])
