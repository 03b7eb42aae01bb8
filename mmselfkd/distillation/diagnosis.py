"""How much each loss moves the student, and what it has left to teach."""
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import nn
from torch.autograd.graph import GradientEdge

from ..checks import check_integer
from ..errors import ConfigError, config_errors, nearest
from ..losses._maps import resize_label
from .monitor import render

Edges = dict[str, Sequence[GradientEdge]]  # by the name of the loss
PREFIXES = ('distill.share.', 'distill.cosine.')
AGREEMENTS = ('distill.agreement_right', 'distill.agreement_wrong')
# of the gradient: a two-hundredth, and 20 times what all the others give
LOW, HIGH = 1 / 200, 20 / 21
AGREED = 0.95  # of the pixels: then the teacher says hardly anything new
CLEAR = 0.01  # of the pixels of a class: below it, noise


def parse_diagnose(value: Any, key: str) -> int | None:
    """The interval that the argument ``diagnose`` of a hook asks for.

    Raises:
        ConfigError: It is no ``dict(interval=N)``.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or 'interval' not in value:
        raise ConfigError(f'{key} = {value!r}: dict(interval=N) is needed, '
                          'to measure every N iterations')
    for name in value:
        if name != 'interval':
            raise ConfigError(f'{key}.{name} = {value[name]!r}: no such '
                              'argument' + nearest(name, ['interval']))
    with config_errors():
        check_integer(f'{key}.interval', value['interval'], 1)
    return value['interval']


def log_names(losses: Iterable[str]) -> list[str]:
    """All that may be logged of these losses."""
    return [*AGREEMENTS, *(
        prefix + name for name in losses for prefix in PREFIXES)]


def gradient_shares(
        task: torch.Tensor, losses: dict[str, torch.Tensor],
        edges: Edges, scale: float = 1.
) -> tuple[dict[str, float], dict[str, float]]:
    r"""The part of each loss in the gradient at what it looks at.

    With :math:`g_j(k)` the gradient of the loss :math:`j` with respect to
    the levels of the loss :math:`k`, all of them as one vector, and
    :math:`j = 0` the task:

    .. math::
        share_k = \frac{|g_k(k)|}{\sum_j |g_j(k)|}, \qquad
        cosine_k = \frac{g_k(k) \cdot g_0(k)}{|g_k(k)| |g_0(k)|}

    Args:
        task (Tensor): The student's own loss, a scalar.
        losses (dict[str, Tensor]): The weighted distillation losses.
        edges (dict[str, Sequence[GradientEdge]]): Where the levels of each
            lie in the graph.
        scale (float): See :func:`gradient_norms`. Defaults to 1.

    Returns:
        tuple[dict, dict]: Shares in [0, 1] and cosines in [-1, 1] by name.
        What has no gradient or one that is not finite is left out.
    """
    if not any(edges.values()):
        return {}, {}
    norms, products = gradient_norms(
        task, losses, {name: edges[name] for name in losses}, scale)
    own = norms[1:].diagonal()
    shares = own / norms.sum(0)
    cosines = products / (own * norms[0])
    shares_by_name, cosines_by_name = (
        {name: value for name, value in zip(losses, found.tolist())
         if math.isfinite(value)} for found in (shares, cosines))
    return shares_by_name, cosines_by_name


def gradient_norms(
        task: torch.Tensor, losses: dict[str, torch.Tensor],
        edges: Edges, scale: float = 1.) -> tuple[torch.Tensor, torch.Tensor]:
    """Norms of all gradients at what some of the losses look at.

    Levels that the loss k does not reach do not count for it. With several
    ranks the vectors are those of the whole batch. The graph stays as it is,
    and no gradient of a parameter is touched.

    Args:
        task (Tensor): The student's own loss, a scalar.
        losses (dict[str, Tensor]): J distillation losses.
        edges (dict[str, Sequence[GradientEdge]]): Where the levels of the
            K of them lie in the graph, at least one.
        scale (float): Factor of the losses, so that half precision holds
            the gradients. Defaults to 1.

    Returns:
        tuple[Tensor, Tensor]: Norms (1 + J, K) of the gradients of the task
        and the losses at the levels of each k, times ``scale``, and the
        products (K, ) of the gradient of k with that of the task.
    """
    places = list(dict.fromkeys(e for found in edges.values() for e in found))
    squares, dots, looks = torch.zeros(
        3, 1 + len(losses), len(places), dtype=torch.float64,
        device=task.device)
    of_task = _gradients(task, places, scale)
    for j, name in enumerate([None, *losses]):
        gradients = of_task if name is None else _gradients(
            losses[name], places, scale)
        for i, (gradient, tasks) in enumerate(zip(gradients, of_task)):
            if gradient is None:
                continue
            squares[j, i] = _product(gradient, gradient)
            looks[j, i] = name in edges and places[i] in edges[name]
            if tasks is not None:
                dots[j, i] = _product(gradient, tasks)
    rows = [1 + list(losses).index(name) for name in edges]
    dots, looks = dots[rows], looks[rows]
    table = torch.cat([squares @ looks.T, (dots * looks).sum(1)[None]])
    all_reduce(table)
    *lengths, products = table.cpu()
    return torch.stack(lengths).sqrt(), products


@contextmanager
def walked_through_again(key: str) -> Iterator[None]:
    """Blame ``key`` where the graph of a step bears no second walk.

    Raises:
        ConfigError: A module ran, or the graph was gone.
    """
    guard = nn.modules.module.register_module_forward_pre_hook(_refuse_to_run)
    try:
        yield
    except RuntimeError as error:
        raise ConfigError(
            f'{key}: the gradient at the tapped features cannot be measured '
            f'({error}); with activation checkpointing (with_cp) or a '
            'compiled model between what a loss looks at and the losses, '
            'leave it out') from error
    finally:
        guard.remove()


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.vdot(a.flatten().double(), b.flatten().double())


def _gradients(value: torch.Tensor, places: Sequence[GradientEdge],
               scale: float) -> Sequence[torch.Tensor | None]:
    """Of a scalar, with respect to places of its graph, which stays."""
    if not places or not value.requires_grad:
        return [None] * len(places)
    with torch.autocast(value.device.type, enabled=False):
        return torch.autograd.grad(
            value.float(), places, value.new_tensor(scale).float(),
            retain_graph=True, allow_unused=True)


def _refuse_to_run(module: nn.Module, args: Any) -> None:
    raise RuntimeError(f'activation checkpointing runs a '
                       f'{type(module).__name__} again')


class Diagnosis:
    """Measures, every so many iterations, on the graph of the step itself.

    Args:
        key (str): Of the hook's argument, for the errors.
        interval (int): Iterations between two measurements.

    Attributes:
        values (dict[str, float]): What this iteration has measured, by the
            name in the log.
    """

    def __init__(self, key: str, interval: int) -> None:
        self.key, self.interval = key, interval
        self.values: dict[str, float] = {}
        self.history: dict[str, list[float]] = {}
        self._agreed: list[float] = []
        self._classes: list[torch.Tensor] = []

    def begin(self, iteration: int) -> bool:
        """Forget the last values; whether it is the turn to measure."""
        self.values = {}
        return iteration % self.interval == 0

    def measure(self, task: torch.Tensor, losses: dict[str, torch.Tensor],
                edges: Edges, scale: float = 1.) -> None:
        """Shares and cosines; see :func:`gradient_shares`.

        Raises:
            ConfigError: This graph cannot be walked through twice.
        """
        with walked_through_again(
                f'{self.key} = {dict(interval=self.interval)!r}'):
            found = gradient_shares(task, losses, edges, scale)
        for prefix, values in zip(PREFIXES, found):
            for name, value in values.items():
                self._add(prefix + name, value)

    @torch.no_grad()
    def compare(self, student: torch.Tensor, teacher: torch.Tensor,
                label: torch.Tensor | None, ignore_index: int) -> None:
        """The agreement, where the teacher is right and where it is wrong.

        Args:
            student (Tensor): Logits (N, K, H, W).
            teacher (Tensor): Logits (N, K, H, W).
            label (Tensor | None): Classes (N, H0, W0); None: not known.
            ignore_index (int): The label that does not count.
        """
        self._agreed.append(
            (student.argmax(1) == teacher.argmax(1)).float().mean().item())
        if label is None:
            return
        label = resize_label(label, student)
        counts = (label != ignore_index) & (label >= 0)
        theirs, ours, label = (
            x[counts] for x in (teacher.argmax(1), student.argmax(1), label))
        is_right = theirs == label
        for name, chosen in zip(AGREEMENTS, (is_right, ~is_right)):
            if chosen.any():
                self._add(name, (ours == theirs)[chosen].float().mean().item())
        # of each class: pixels; the student alone is right; the teacher alone
        alone = (ours == label) & ~is_right, (ours != label) & is_right
        self._classes.append(torch.stack([
            torch.bincount(label[chosen], minlength=student.shape[1])[
                :student.shape[1]].cpu()
            for chosen in (torch.ones_like(is_right), *alone)]))

    def _add(self, key: str, value: float) -> None:
        self.values[key] = value
        self.history.setdefault(key, []).append(value)

    def summary(self) -> str:
        """The table at the end of the run."""
        rows = [(key, len(values), f'{values[0]:.4g}', f'{_late(values):.4g}')
                for key, values in self.history.items()]
        return render('Diagnosis, from first to last', (
            'logged as', 'values', 'first', 'mean of the second half'), rows)

    def advice(self, classes: Sequence[str] | None = None) -> Iterator[str]:
        """What follows from the second half of the measurements.

        Args:
            classes (Sequence[str], optional): Names of the classes.
        """
        for key, values in self.history.items():
            name = key.removeprefix(PREFIXES[0])
            if name == key or '.' in name:  # a teacher's own has no weight
                continue
            share = _late(values)
            if not LOW <= share <= HIGH:
                yield (f'distill.{name} is {100 * share:.3g} % of the '
                       'gradient at what it looks at: ' +
                       ('raise' if share < LOW else 'lower') +
                       ' its loss_weight')
        if self._agreed and _late(self._agreed) >= AGREED:
            yield ('the student already agrees with the teacher at '
                   f'{100 * _late(self._agreed):.0f} % of the pixels: nothing '
                   'left to learn here')
        if not self._classes:
            return
        late = torch.stack(self._classes[len(self._classes) // 2:]).sum(0)
        for number, (total, student, teacher) in enumerate(late.T.tolist()):
            if student > max(teacher, CLEAR * total):
                which = classes[number] if classes and number < len(
                    classes) else number
                yield ('the teacher is wrong where the student is right on '
                       f'class {which}: at {100 * student / total:.0f} % of '
                       f'its pixels, and the other way round at '
                       f'{100 * teacher / total:.0f} %')


def _late(values: Sequence[float]) -> float:
    """The mean of the second half."""
    late = values[len(values) // 2:]
    return sum(late) / len(late)
