"""Making an invalid case: a valid one with one thing spoilt."""
import random
from typing import Any

from ..cases import Case
from ..valid import make_base
from . import hooks, losses, schedules, sources, teachers  # noqa: F401
from .base import MUTATIONS


def make_invalid(seed: Any, number: int, folder: str) -> Case:
    rng = random.Random(f'{seed} invalid {number}')
    spoil = MUTATIONS[number % len(MUTATIONS)]
    while True:
        case = make_base(rng, f'invalid-{number}', folder)
        case.expected = 'error'
        case.files[''] = folder
        spoilt = spoil(rng, case)
        if spoilt is not None:
            del case.files['']
            case.what, case.says = f'{spoil.__name__}: {spoilt[0]}', spoilt[1]
            return case
