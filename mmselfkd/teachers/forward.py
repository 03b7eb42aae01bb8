"""A forward pass for what some taps record, and no further."""
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..sources import Levels
from ..taps import Tap, reach

Call = Callable[[torch.Tensor, Any], None]


class _Enough(Exception):
    """Every open tap has what it wants: the rest of the pass is not needed."""


class TappedForward:
    """Runs a model and gives what its taps recorded.

    The first, full run shows how often each tap fires; later ones end at the
    deepest tap that is open. A model may not be able to run to its end
    without labels or meta information: of several ``calls`` that is taken
    which :func:`~mmselfkd.taps.reach` takes.

    Args:
        taps (Mapping[str, Tap]): By source.
        calls (sequence of Callable): ``call(inputs, samples)`` runs the
            model.
    """

    def __init__(self, taps: Mapping[str, Tap], *calls: Call) -> None:
        self.taps = taps
        self._calls = list(calls)
        for tap in taps.values():
            tap.on_run = self._stop_when_enough

    def rehearse(self, inputs: torch.Tensor,
                 samples: Any) -> dict[str, Levels]:
        """A first, full run.

        Taps whose tensors are changed in place afterwards (by a ReLU, say)
        keep a copy from then on.

        Raises:
            Exception: Of the first call, where none reaches every tap.
        """
        number = reach(self.taps.values(), [
            functools.partial(call, inputs, samples) for call in self._calls])
        self._calls = [self._calls[number]]
        for tap in self.taps.values():
            tap.expected_runs = len(tap.runs)
        levels = self._take(self.taps, inputs)
        for tap in self.taps.values():
            tap.clone = tap.changed
        return levels

    def __call__(self, sources: Any, inputs: torch.Tensor,
                 samples: Any) -> dict[str, Levels]:
        """The levels of ``sources``; None: of all."""
        taps = {source: self.taps[source] for source in sources or self.taps}
        self._run(taps, inputs, samples)
        return self._take(taps, inputs)

    def _run(self, taps: Mapping[str, Tap], inputs: torch.Tensor,
             samples: Any) -> None:
        for tap in taps.values():
            tap.open()
        try:
            self._calls[0](inputs, samples)
        except _Enough:
            pass
        finally:
            for tap in taps.values():
                tap.close()

    @staticmethod
    def _take(taps: Mapping[str, Tap],
              inputs: torch.Tensor) -> dict[str, Levels]:
        return {source: tap.take(inputs.shape)
                for source, tap in taps.items()}

    def _stop_when_enough(self) -> None:
        if all(tap.is_satisfied for tap in self.taps.values()
               if tap.is_open):
            raise _Enough
