"""What mutations are, and what several of them do."""
import copy

from ..cases import LOSSES, Case
from ..values import arguments

MUTATIONS = []


def mutation(function):
    """Registers what spoils a case in place and says what it spoilt.

    It returns ``(what, says)``, or None where it does not apply; ``says`` is
    what the error has to name.
    """
    MUTATIONS.append(function)
    return function


def again(function, times=1):
    """Registers it another time, for what has much to spoil."""
    MUTATIONS.extend([function] * times)


def pick_term(rng, case: Case, *names: str):
    """Key, entry and merged entry of a term that has the arguments."""
    terms = [(key, *both) for key, both in case.terms.items()
             if set(names) <= set(arguments(LOSSES[both[1]['type']]))]
    return rng.choice(terms) if terms else None


def take_teacher(rng, case: Case, cfg: dict | None = None,
                 kind: str = 'DistillHook') -> None:
    """A case whose one teacher is ``cfg`` and in use."""
    case.hook.clear()
    case.hook.update(type=f'mmselfkd.{kind}', teacher=cfg)
    if kind == 'DistillHook':
        case.hook['losses'] = dict(loss_x=dict(
            type=rng.choice(['PairwiseLoss', 'NFDLoss', 'ATLoss']),
            source='features'))


def losses_on(channels: str) -> list[str]:
    """The losses that want channels of this kind."""
    return [name for name, cls in LOSSES.items() if cls.channels == channels]


def as_written(value):
    """A copy, for what several cases share."""
    return copy.deepcopy(value)
