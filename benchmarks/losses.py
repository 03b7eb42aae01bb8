"""What every loss costs, and how exact it is, against its plain equation.

Each loss and the same equation written down plainly (naive_losses.py), forward
and backward, in turn on the same maps of growing size. Prints a Markdown
table; with --out it is written to that file, with a plot beside it.
"""
import copy
import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import naive_losses as naive
import numpy as np
import torch
from measuring import (
    machine,
    make_parser,
    milliseconds,
    peak_bytes,
    table,
    told,
    write,
)
from torch import nn

from mmselfkd import losses
from mmselfkd.distillation.query_matching import matched

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402

# N, C, H and W: growing maps, then growing channels or classes
FEATURES = ((2, 128, 16, 16), (2, 128, 32, 32), (2, 128, 64, 64),
            (2, 512, 64, 64))
SIDES = ((2, 68, 16, 16), (2, 68, 32, 32), (2, 68, 64, 64))
WIDE = (2, 128, 128, 256)
LOGITS = ((2, 19, 16, 16), (2, 19, 32, 32), (2, 19, 64, 64))
QUERIES = ((2, 24, 10, 10), (2, 24, 30, 30))
CLASSES = ((1, 10, 64, 64), (1, 50, 64, 64), (1, 150, 64, 64))
LIMIT = 4 * 2**30  # bytes that a naive form may take; else it is not run
NEAR = 1e-3  # distance of the student from the teacher, relative
HEADER = ('loss', 'maps', 'ms', 'naive ms', 'times faster', 'MiB',
          'naive MiB', 'value', 'gradient', 'value, near', 'gradient, near')
LEGEND = f"""\
Forward and backward in float32, the student's maps alone with a gradient \
(MixSKD: both). *times faster*: naive through ours, within each of the \
rounds, the median with the quartiles in brackets; the two take turns. *MiB*: \
peak of what is allocated beyond the maps, the gradient included. *value*, \
*gradient*: relative difference from the naive form in float64, of gradients \
the largest one by the largest entry; *near*: where the student is the \
teacher with noise of {NEAR:g} of its values. Features are normally \
distributed numbers behind a ReLU, logits such numbers times 3, one label in \
ten is ignored."""


@dataclass(frozen=True)
class Case:
    """A loss and its plain form.

    Attributes:
        name (str): Of its rows.
        build (Callable): Makes the loss.
        naive (Callable): The plain form, see ``naive_losses``.
        sizes (tuple): Of the maps.
        positive (bool): Whether the maps are features, not logits.
        deeper (bool): Whether the teacher's map has twice the channels and
            half the sides.
        mutual (bool): Whether the teacher's side gets a gradient too.
        quadratic (bool): Whether the plain form grows with the square of the
            positions.
        of_module (bool): Whether the plain form gets the loss too, for what
            it has learned or remembers.
        kinked (bool): Whether the slope jumps at the teacher, so that near
            it rounding decides on which side a number lies.
    """
    name: str
    build: Callable[[], nn.Module]
    naive: Callable[..., torch.Tensor]
    sizes: tuple
    positive: bool = True
    deeper: bool = False
    mutual: bool = False
    quadratic: bool = False
    of_module: bool = False
    kinked: bool = False


def _kd(name, dynamic=None, adjust=None, sizes=LOGITS):
    """A KDLoss with options; ``None`` or the plain form of each."""
    options = dict(temperature=4.0 if dynamic else 1.0)
    if dynamic:
        options['dynamic_temperature'] = dict(type=dynamic)
    if adjust:
        options['adjust'] = dict(type=adjust)
    plain = dict(FLSW=naive.flsw, CWSM=naive.cwsm,
                 ProbabilityShift=naive.probability_shift,
                 LabelSmoothing=naive.label_smoothing)
    return Case(
        name, functools.partial(losses.KDLoss, **options),
        functools.partial(naive.kd, dynamic=plain.get(dynamic),
                          adjust=plain.get(adjust)), sizes, positive=False)


def _pairwise(name, **options):
    return Case(
        name, functools.partial(losses.PairwiseLoss, pool=None, **options),
        functools.partial(naive.pairwise, **options), (*FEATURES, WIDE),
        quadratic=True)


def _cirkd_memory():
    """Of queues that are full and stay as they are."""
    return losses.CIRKDMemoryLoss(
        num_classes=128, pixel_memory=64, region_memory=16).eval()


class _WithClassifier(losses.SRDLoss):
    """With a classifier of its own, of 19 classes."""

    needs_classifier = False

    def build(self, student, teacher, image):
        super().build(student, teacher, image)
        self.classifier = nn.Conv2d(teacher.shape[1], 19, 1).to(
            teacher.device).requires_grad_(False)

    def forward(self, student, teacher):
        return super().forward(
            student, teacher, classifier=self.classifier)


class _WithObjects(losses.FGDLoss):
    """With the objects of the plain form."""

    needs_objects = False

    def forward(self, student, teacher):
        return super().forward(
            student, teacher, objects=naive.fgd_objects(student.detach()))


class _WithRegions(losses.LDLoss):
    """With the regions of the plain form."""

    needs_regions = False

    def forward(self, student, teacher):
        return super().forward(
            student, teacher, regions=naive.ld_regions(student.detach()))


class _WithHead(losses.CrossKDLoss):
    """With a head of its own, of 8 classes and 17 bins, on one level."""

    positives = 50.

    def build(self, student, teacher, image):
        self.classes, self.boxes = (
            nn.Conv2d(teacher.shape[1], count, 3, padding=1).to(
                teacher.device).requires_grad_(False) for count in (8, 68))

    def forward(self, student, teacher):
        return super().forward(
            [student] * 2, [teacher] * 2, head=self._ends,
            positives=self.positives)

    def _ends(self, maps):
        return [(self.classes(maps[0])[:, None], self.boxes(maps[1])[:, None])]


class _OfQueries(losses.KDLoss):
    """Of matched queries, one a position."""

    def forward(self, student, teacher):
        ours, theirs = matched(naive.as_queries(student),
                               naive.as_queries(teacher), False)
        return super().forward(ours[:, :-4], theirs[:, :-4])


CASES = (
    _kd('KDLoss', sizes=LOGITS + CLASSES),
    _kd('KDLoss, probability shift', adjust='ProbabilityShift'),
    _kd('KDLoss, label smoothing', adjust='LabelSmoothing'),
    _kd('KDLoss, FLSW', 'FLSW'),
    _kd('KDLoss, CWSM', 'CWSM'),
    _pairwise('PairwiseLoss'),
    _pairwise('PairwiseLoss, range 4', connection_range=4),
    Case('HolisticLoss', losses.HolisticLoss, naive.holistic, LOGITS,
         positive=False),
    Case('NFDLoss', losses.NFDLoss, naive.nfd, FEATURES),
    Case('PKDLoss', losses.PKDLoss, naive.pkd, FEATURES),
    Case('FGDLoss', _WithObjects, naive.fgd, FEATURES[:3], of_module=True),
    Case('LDLoss', _WithRegions, naive.ld, SIDES, positive=False),
    Case('CrossKDLoss', _WithHead, naive.crosskd, FEATURES[:3],
         of_module=True, kinked=True),
    Case('KDLoss, queries', functools.partial(_OfQueries, ignore_index=None),
         naive.queries, QUERIES, positive=False),
    Case('CWDLoss', losses.CWDLoss, naive.cwd, LOGITS + CLASSES,
         positive=False),
    Case('CWDLoss, features', losses.CWDLoss, naive.cwd, FEATURES),
    Case('FitNetsLoss', losses.FitNetsLoss, naive.fitnets, FEATURES),
    Case('DISTLoss', losses.DISTLoss, naive.dist, LOGITS + CLASSES,
         positive=False),
    Case('CIRKDMiniBatchLoss', losses.CIRKDMiniBatchLoss,
         naive.cirkd_minibatch, FEATURES, quadratic=True),
    Case('CIRKDMemoryLoss', _cirkd_memory, naive.cirkd_memory, FEATURES[:3],
         of_module=True),
    Case('IFVDLoss', losses.IFVDLoss, naive.ifvd, FEATURES[:3]),
    Case('AttnFDLoss', losses.AttnFDLoss, naive.attnfd, FEATURES[:3],
         of_module=True),
    Case('SRDLoss', _WithClassifier, naive.srd, FEATURES[:3], of_module=True),
    Case('MGDLoss', losses.MGDLoss, naive.mgd, FEATURES[:3], of_module=True),
    Case('ICSDLoss', losses.ICSDLoss, naive.icsd, LOGITS + CLASSES,
         positive=False),
    Case('ATLoss', losses.ATLoss, naive.at, FEATURES),
    Case('TFDInterLoss', losses.TFDInterLoss, naive.tfd_inter, FEATURES,
         deeper=True),
    Case('TFDIntraLoss', losses.TFDIntraLoss, naive.tfd_intra, FEATURES),
    Case('MixSKDFeatureLoss', losses.MixSKDFeatureLoss, naive.mixskd_feature,
         FEATURES, mutual=True),
    Case('MixSKDLogitLoss', losses.MixSKDLogitLoss, naive.mixskd_logit, LOGITS,
         positive=False, mutual=True),
    Case('MixSKDAdversarialLoss', losses.MixSKDAdversarialLoss,
         naive.mixskd_adversarial, FEATURES, mutual=True),
)


@dataclass
class Result:
    """What was measured of a case at one size.

    Attributes:
        case (Case): The loss.
        size (tuple): N, C, H and W of the student's map.
        times, naive_times (list[float]): Milliseconds by round.
        memory, naive_memory (int): Bytes beyond the maps; of a naive form
            that was not run, what it would take.
        errors (list[float]): Of value and gradient, and of both near the
            teacher.
    """
    case: Case
    size: tuple
    times: list
    naive_times: list
    memory: int
    naive_memory: int
    errors: list


class Maps:
    """Student, teacher, labels and image of one size, always the same ones.

    Args:
        case (Case): What they are for.
        size (tuple): N, C, H and W of the student's map.
        device (torch.device): Where they lie.
        near (bool): Whether the student is close to the teacher.
        dtype (torch.dtype): Of maps and image.
    """

    def __init__(self, case, size, device, near=False, dtype=torch.float32):
        generator = torch.Generator().manual_seed(0)
        n, c, h, w = size

        def draw(*shape):
            drawn = torch.randn(shape, generator=generator)
            return drawn.relu() if case.positive else 3 * drawn

        student, teacher = draw(*size), draw(
            *((n, 2 * c, h // 2, w // 2) if case.deeper else size))
        if near and not case.deeper:
            student = teacher * (1 + NEAR * torch.randn(
                size, generator=generator))
        label = torch.randint(c, (n, h, w), generator=generator)
        label[torch.rand((n, h, w), generator=generator) < 0.1] = 255
        self.student = student.to(device, dtype).requires_grad_()
        self.teacher = teacher.to(device, dtype).requires_grad_(case.mutual)
        self.label = label.to(device)
        self.image = torch.randn(
            n, 3, 4 * h, 4 * w, generator=generator).to(device, dtype)

    def __iter__(self):
        return iter((self.student, self.teacher, self.label, self.image))

    def clear(self):
        """Leave no gradient of an earlier call."""
        self.student.grad = self.teacher.grad = None

    def value_and_gradient(self, loss):
        """Of the student's map."""
        self.clear()
        torch.manual_seed(0)  # the same masks in both forms
        value = loss(*self)
        value.backward()
        return value.detach().double(), self.student.grad.double()


def forms(case, device):
    """The loss, its plain form, and that in float64, of one interface."""
    module = case.build().to(device)

    def ours(student, teacher, label, image):
        extra = dict(image=image) if module.needs_image else {}
        if module.needs_label:
            extra['label'] = label
        return module(student, teacher, **extra)

    if case.of_module:
        return module, ours, lambda *maps: case.naive(
            *maps, module=module), lambda *maps: case.naive(
                *maps, module=copy.deepcopy(module).double())
    if not module.is_adversarial:
        return module, ours, case.naive, case.naive
    return module, ours, lambda *maps: case.naive(
        *maps, discriminator=module.discriminator), lambda *maps: case.naive(
            *maps, discriminator=copy.deepcopy(module.discriminator).double())


def measure_case(case, device, rounds, cpu_time):
    """The results of a case, size after size."""
    results = []
    for size in case.sizes:
        torch.manual_seed(0)
        module, ours, plain, exact = forms(case, device)
        maps = Maps(case, size, device)
        module.build(maps.student, maps.teacher, maps.image)
        needed = _expected(case, size, results)
        works = [functools.partial(maps.value_and_gradient, form)
                 for form in ((ours, plain) if needed < LIMIT else (ours, ))]
        times = [[milliseconds(work, device, cpu_time) for work in works]
                 for _ in range(rounds + 1)][1:]  # the first to warm up
        memory = []
        for work in works:
            maps.clear()
            memory.append(peak_bytes(work, device))
        times = [list(column) for column in zip(*times)]
        errors = []
        if needed < LIMIT:
            for near in (False, True):
                errors += _errors(case, size, device, near, ours, exact)
        results.append(Result(
            case, size, times[0], times[1] if len(times) > 1 else [],
            memory[0], memory[1] if len(memory) > 1 else needed, errors))
    return results


def _expected(case, size, results):
    """Bytes that the plain form will take, from the last size that it did."""
    if not case.quadratic or not results:
        return 0
    last = max(results, key=lambda result: np.prod(result.size[2:]))
    grown = np.prod(size[2:]) / np.prod(last.size[2:])
    return int(last.naive_memory * grown**2)


def _errors(case, size, device, near, ours, exact):
    maps = Maps(case, size, device, near)
    value, slope = maps.value_and_gradient(ours)
    maps = Maps(case, size, device, near, torch.float64)  # the same numbers
    expected, expected_slope = maps.value_and_gradient(exact)
    return [float((value - expected).abs() / expected.abs()),
            float((slope - expected_slope).abs().max()
                  / expected_slope.abs().max())]


# -- report -----------------------------------------------------------------


def row(result):
    """The cells of a result."""
    cells = dict.fromkeys(HEADER, '-')
    cells['loss'] = result.case.name
    cells['maps'] = 'x'.join(map(str, result.size))
    cells['ms'] = told(result.times, 1)
    cells['MiB'] = f'{result.memory / 2**20:.1f}'
    memory = f'{result.naive_memory / 2**20:.1f}'
    if not result.naive_times:
        cells['naive MiB'] = f'not run: about {memory}'
        return list(cells.values())
    cells['naive MiB'] = memory
    cells['naive ms'] = told(result.naive_times, 1)
    cells['times faster'] = told(
        np.array(result.naive_times) / result.times, 2)
    cells.update(zip(HEADER[-4:], (f'{error:.0e}' for error in result.errors)))
    if result.case.deeper:  # no map that is close to one of another size
        cells.update(dict.fromkeys(HEADER[-2:], '-'))
    if result.case.kinked:
        cells[HEADER[-1]] = '-'
    return list(cells.values())


def draw(results, path):
    """Milliseconds and MiB over the positions and over the classes."""
    columns = [column for column in (
        ('positions of a map (2 images, 128 channels or 19 classes)',
         lambda size: size[2] * size[3],
         [r for r in results if r.size[:2] in ((2, 128), (2, 19))]),
        ('classes (1 image, 64 x 64 positions)', lambda size: size[1],
         [r for r in results if r.size in CLASSES])) if column[2]]
    figure, axes = pyplot.subplots(
        2, len(columns), figsize=(1.5 + 5.5 * len(columns), 8), squeeze=False)
    names = list(dict.fromkeys(result.case.name for result in results))
    for column, (title, along, chosen) in enumerate(columns):
        for number, name in enumerate(names):
            mine = [r for r in chosen if r.case.name == name]
            at = [along(r.size) for r in mine]
            style = dict(color=pyplot.cm.tab20(number % 20),
                         marker='osv'[number % 3], markersize=4)
            for place, label, ours, plain in (
                    (0, name, [np.median(r.times) for r in mine],
                     [np.median(r.naive_times or np.nan) for r in mine]),
                    (1, None, [r.memory / 2**20 for r in mine],
                     [r.naive_memory / 2**20 for r in mine])):
                axes[place, column].plot(
                    at, ours, label=None if column else label, **style)
                axes[place, column].plot(at, plain, linestyle=':', **style)
        for place, unit in ((0, 'ms'), (1, 'MiB')):
            axes[place, column].set(
                xscale='log', yscale='log', xlabel=title, ylabel=unit)
    figure.suptitle('Forward and backward; dotted: the plain equation')
    figure.tight_layout(rect=(0, 0, 0.83, 1))
    figure.legend(loc='center right', fontsize=8)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def parse_args():
    parser = make_parser(__doc__, rounds=7)
    parser.add_argument(
        'losses',
        nargs='*',
        metavar='LOSS',
        help='only losses whose name begins so')
    return parser.parse_args()


def main():
    args = parse_args()
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # the profiler's own
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    chosen = [case for case in CASES
              if not args.losses or case.name.startswith(tuple(args.losses))]
    if not chosen:
        sys.exit(f'no loss begins with {" or ".join(args.losses)}; there are '
                 + ', '.join(case.name for case in CASES))
    results = []
    for case in chosen:
        results += measure_case(case, device, args.iters, args.cpu_time)
        print(f'{case.name} measured', flush=True)
    clock = 'CPU time' if args.cpu_time else 'wall time'
    write('\n'.join([
        machine(device, f'{args.iters} rounds', clock, 'seed 0',
                args.device_note), '',
        table(HEADER, map(row, results)), LEGEND]), args.out)
    if args.out:
        draw(results, args.out.with_suffix('.png'))


if __name__ == '__main__':
    main()
