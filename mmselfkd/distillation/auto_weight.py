"""Loss weights that follow from a wanted share of the gradient."""
import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.logging import MMLogger
from torch.autograd.graph import GradientEdge

from ..checks import LEAST, MOST
from ..errors import ConfigError
from .diagnosis import Edges, gradient_norms, walked_through_again
from .loss_config import AUTO, LossConfig
from .monitor import render

PREFIX = 'distill.weight.'  # of the key in the log
INTERVAL = 20  # iterations between two measurements
MOMENTUM = 0.1  # least share of the newest measurement in a running mean


class AutoWeight:
    """The weight of one loss, and what it follows from.

    Attributes:
        value (float): The loss weight, without the schedule.
        norms (dict): Running means of the norms of the gradients at what the
            loss looks at, by the name of what they are of ('' is the task),
            each with the number of measurements. Those of losses are at a
            weight of 1. Empty: nothing has been measured, and ``value``
            makes the loss as large as that of the task.
    """

    def __init__(self, config: LossConfig) -> None:
        assert config.share is not None
        self.key = f'{config.key}.loss_weight = {AUTO!r}'
        self.share = config.share
        self.value, self.first = 1., math.nan
        self.norms: dict[str, tuple[float, int]] = {}

    def add(self, norms: dict[str, float]) -> None:
        """Take in a measurement."""
        for name, norm in norms.items():
            mean, count = self.norms.get(name, (0., 0))
            count += 1
            mean += (norm - mean) * max(MOMENTUM, 1 / count)
            self.norms[name] = mean, count

    def norm(self, name: str) -> float:
        """Of the gradient of the task ('') or a loss, as far as is known."""
        return self.norms.get(name, (0., 0))[0]

    def state_dict(self) -> dict[str, Any]:
        return dict(value=self.value, first=self.first,
                    norms=dict(self.norms))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.first = state['value'], state['first']
        self.norms = dict(state['norms'])


class AutoWeights:
    r"""The losses of a run whose weight is ``'auto'``.

    Let :math:`n_j(k)` be the norm of the gradient of the loss j with respect
    to the levels that the loss k looks at, at a weight of 1, and
    :math:`n_0(k)` that of the task with all that trains teachers. The weights
    w solve, with the factors f of the schedules,

    .. math::
        w_k n_k(k) = share_k \Big(w_k n_k(k) + n_0(k) +
                                  \sum_{j \ne k} f_j w_j n_j(k)\Big)

    for all k together: each loss has its share where its schedule is 1 and
    the others are as they are. A weight that is a number stays. The norms are
    running means over the measurements, one in :data:`INTERVAL` iterations,
    the first of them in the first iteration of a loss, before it is weighed.

    A measurement counts for a loss where it is finite and the gradient of the
    loss is not 0. Until the first one that counts the loss is as large as
    that of the task.

    Args:
        configs (Sequence[LossConfig]): The losses in use.

    Raises:
        ConfigError: Shares of losses at one place leave nothing to the task.
    """

    def __init__(self, configs: Sequence[LossConfig]) -> None:
        self.terms = {config.name: AutoWeight(config) for config in configs
                      if config.share is not None}
        self._warned = False
        for config in configs:
            there = [other for other in configs if other.share is not None
                     and other.student_sources == config.student_sources]
            if sum(other.share or 0 for other in there) >= 1:
                raise ConfigError(
                    ', '.join(f'{other.key}.share = {other.share!r}'
                              for other in there) +
                    ': the shares of losses that look at the same must be '
                    'below 1 together, for the rest is the task')

    def values(self, names: Collection[str]) -> dict[str, float]:
        """What is logged of the losses of these names."""
        return {PREFIX + name: term.value
                for name, term in self.terms.items() if name in names}

    def is_due(self, iteration: int, on: Collection[str]) -> bool:
        """Whether to measure in this iteration.

        Args:
            iteration (int): Iterations done so far.
            on (Collection[str]): The losses that are computed.
        """
        terms = [self.terms[name] for name in on if name in self.terms]
        return bool(terms) and (iteration % INTERVAL == 0 or not all(
            term.norms for term in terms))

    def weigh(self, factors: dict[str, float]) -> dict[str, float]:
        """The factor of each loss: schedule times weight.

        Args:
            factors (dict[str, float]): The schedule where the weight is
                ``'auto'``, else the whole.
        """
        return {name: factor * self.terms[name].value
                if name in self.terms else factor
                for name, factor in factors.items()}

    def measure(self, task: torch.Tensor, values: dict[str, torch.Tensor],
                own: dict[str, torch.Tensor], factors: dict[str, float],
                edges: Edges, task_factor: float = 1.,
                scale: float = 1.) -> None:
        """Measure on the graph of this step, and set the weights.

        Args:
            task (Tensor): The student's own loss.
            values (dict[str, Tensor]): The unweighted losses.
            own (dict[str, Tensor]): What trains teachers.
            factors (dict[str, float]): See :meth:`weigh`.
            edges (dict): Where the levels of each of ``values`` lie in the
                graph.
            task_factor (float): The schedule that ``task`` is scaled by.
            scale (float): See :func:`gradient_norms`.

        Raises:
            ConfigError: This graph cannot be walked through twice.
        """
        on = [name for name in self.terms if name in values]
        self._guess(task, {name: values[name] for name in on
                           if not self.terms[name].norms})
        weights = self.weigh({name: factors[name] for name in values})
        losses = {name: weights[name] * value
                  for name, value in values.items()} | own
        with walked_through_again(self.terms[on[0]].key):
            norms, _ = gradient_norms(
                task, losses, {name: edges[name] for name in on}, scale)
        units = {'': task_factor, **weights, **dict.fromkeys(own, 1.)}
        for name, column in zip(on, (norms / scale).T.tolist()):
            found = {row: norm / units[row] for row, norm in zip(
                ['', *losses], column) if units[row]}
            if found[name] and all(map(math.isfinite, found.values())):
                self.terms[name].add(found)
        self._solve([name for name in on if self.terms[name].norms],
                    weights | dict.fromkeys(own, 1.), factors, task_factor)

    def _guess(self, task: torch.Tensor,
               values: dict[str, torch.Tensor]) -> None:
        """As large as the task's, where nothing has been measured."""
        if not values:
            return
        sizes = torch.stack([task, *values.values()]).detach().double()
        all_reduce(sizes)
        size, *others = sizes.abs().tolist()
        for name, other in zip(values, others):
            weight = size / other if other else math.nan
            self.terms[name].value = (
                weight if LEAST <= weight <= MOST else 1.)

    def _solve(self, names: Sequence[str], weights: dict[str, float],
               factors: dict[str, float], task_factor: float) -> None:
        """The weights of ``names`` from the running means."""
        terms = [self.terms[name] for name in names]
        if not terms:
            return
        sides, others = [], []
        for name, term in zip(names, terms):
            own = term.norm(name)
            sides.append([
                1 - term.share if other == name else
                -term.share * factors[other] * term.norm(other) / own
                for other in names])
            rest = task_factor * term.norm('') + sum(
                weight * term.norm(other) for other, weight in weights.items()
                if other not in names)
            others.append(term.share * rest / own)
        found = torch.linalg.solve_ex(
            torch.tensor(sides, dtype=torch.float64),
            torch.tensor(others, dtype=torch.float64)).result.tolist()
        if all(LEAST <= weight <= MOST for weight in found):
            for term, weight in zip(terms, found):
                term.value = weight
                if math.isnan(term.first):
                    term.first = weight
        elif task_factor and not self._warned:  # at 0 there is no rest
            self._warned = True
            MMLogger.get_current_instance().warning(
                ', '.join(f'{term.key} with share = {term.share:g}'
                          for term in terms) +
                ': no weights give these shares of the gradient; lower them, '
                'unless nothing else has a gradient there. The weights stay ' +
                ', '.join(f'{term.value:.4g}' for term in terms))

    def summary(self) -> str:
        """The table at the end of the run."""
        rows = [(f'distill.{name}', f'{term.share:g}', f'{term.first:.4g}',
                 f'{term.value:.4g}') for name, term in self.terms.items()]
        return render(f'loss_weight={AUTO!r}', (
            'logged as', 'share', 'first weight', 'last weight'), rows)


def check_reached(config: LossConfig, task: torch.Tensor,
                  edges: Sequence[GradientEdge]) -> None:
    """Refuse a share of a gradient that there is not.

    Args:
        config (LossConfig): Its weight is ``'auto'``.
        task (Tensor): The student's own loss.
        edges (Sequence[GradientEdge]): Where the levels lie in its graph.

    Raises:
        ConfigError: The task has no gradient at what the loss looks at.
    """
    key = f'{config.key}.loss_weight = {AUTO!r}'
    with walked_through_again(key):
        found = torch.autograd.grad(
            task, edges, retain_graph=True, allow_unused=True
        ) if edges and task.requires_grad else []
    if all(gradient is None for gradient in found):
        where = ', '.join(path for _, path in config.student_sources)
        raise ConfigError(
            f"{key}: the student's own losses have no gradient at {where!r}, "
            'so there is nothing to take a share of; give a number')
