"""A user's own module as a loss, whatever of the contract it declares."""
import inspect
from typing import Any

import torch
from torch import nn

from ..losses.base import DistillationLoss

OPTIONAL = ('label', 'weight', 'image')  # arguments a forward may have
DECLARABLE = ('channels', 'sizes', 'needs_positions', 'level_reduction')
# what a run calls of a DistillationLoss alone, with so many arguments
CONTRACT = dict(build=3, check=2, pair_levels=2)


class PlainLoss(DistillationLoss):
    """Calls ``module.forward(student, teacher)`` with what else it takes.

    Attributes:
        declares_channels (bool): Whether the module says what the channels
            of its maps must be.

    Args:
        module (nn.Module): Not a :class:`DistillationLoss`.

    Raises:
        TypeError: Its forward cannot be called with two maps, or it has a
            method that a run calls of a :class:`DistillationLoss` alone.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        name = type(module).__name__
        for method, count in CONTRACT.items():
            if _takes(getattr(module, method, None), count):
                raise TypeError(
                    f'{name}.{method} would never be called: {name} is no '
                    'DistillationLoss; derive it from '
                    'mmselfkd.losses.DistillationLoss')
        signature = inspect.signature(module.forward)
        takes_any = any(p.kind is p.VAR_KEYWORD
                        for p in signature.parameters.values())
        self._accepted = [name for name in OPTIONAL
                          if takes_any or name in signature.parameters]
        try:
            signature.bind(None, None, **dict.fromkeys(self._accepted))
        except TypeError as error:
            raise TypeError(
                f'{name}.forward{signature} cannot be called '
                f'with the two maps (student, teacher): {error}') from error
        self.takes_weight = 'weight' in self._accepted
        self.needs_label = 'label' in self._accepted
        self.needs_image = 'image' in self._accepted
        for name in DECLARABLE:
            value = getattr(module, name, None)
            if isinstance(value, type(getattr(self, name))):
                setattr(self, name, value)  # and not a number of channels
        self.declares_channels = isinstance(
            getattr(module, 'channels', None), str)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor,
                **options: torch.Tensor | None) -> torch.Tensor:
        """What the module gives."""
        return self.module(student, teacher, **{
            name: options.get(name) for name in self._accepted})


def as_distillation_loss(module: Any) -> DistillationLoss:
    """``module`` itself, or what makes a plain one fit the contract.

    Raises:
        TypeError: It is no loss, or not one that can be called.
    """
    name = type(module).__name__
    if not isinstance(module, nn.Module):
        raise TypeError(f'a {name} is no loss; derive it from '
                        'mmselfkd.losses.DistillationLoss')
    if '_parameters' not in vars(module):
        raise TypeError(f'{name}.__init__ does not call super().__init__()')
    return module if isinstance(module, DistillationLoss) else PlainLoss(
        module)


def _takes(method: Any, count: int) -> bool:
    """Whether it can be called with so many arguments."""
    try:
        inspect.signature(method).bind(*range(count))
    except TypeError:
        return False
    return True
