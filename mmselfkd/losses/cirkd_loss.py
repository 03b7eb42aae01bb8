"""Cross-image relations: how a pixel resembles those of other images."""
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from ..checks import (
    check_integer,
    check_integer_or_none,
    check_not_negative,
    check_positive,
)
from ._maps import (
    autocast_off,
    check_maps,
    full_precision,
    normalise_weight,
    pooled,
    pooled_weight,
    resize_label,
    total_weight,
    unit_length,
    weight_of_valid,
)
from .base import DistillationLoss
from .discriminator import InputNorm, batch_mean
from .kd_loss import check_ignore_index

LENGTHS = dict(pixel_memory=20000, region_memory=2000)  # the paper's
CHUNK = 2**19  # similarities at a time, few enough for a CPU's cache
# What the paper compares in a step of a GPU: two images of 64 x 128 features,
# with each other and with 5,120 vectors of each of 19 classes
PAIRS = (2 * 64 * 128)**2
MEMORY_PAIRS = 2 * 64 * 128 * 19 * 5120
# times these: a warning, from some seconds a step on
MANY = dict(cpu=1 / 8, cuda=8)
TOO_MANY = dict(cpu=16, cuda=1024)  # times these: half a minute or more


class _Divergence(torch.autograd.Function):
    """Weighted sum over rows of divergences of their similarities.

    Of unit vectors: rows (R, C) and columns (G, M, C) of student and
    teacher. In each of the G groups the similarities of a row, divided by
    the temperature, are a softmax over its M columns. A chunk of rows at a
    time, and the gradient with the value: memory is linear in R and G M.
    """

    @staticmethod
    def forward(ctx, student, columns, teacher, their_columns, row_weight,
                column_weight, temperature):
        groups, size = columns.shape[:2]
        wanted = ctx.needs_input_grad
        slope = torch.zeros_like(student) if wanted[0] else None
        column_slope = torch.zeros_like(columns) if wanted[1] else None
        ours, theirs = columns.flatten(0, 1), their_columns.flatten(0, 1)
        shift, is_seen = _column_shift(column_weight)
        value = student.new_zeros((), dtype=torch.float64)
        step = max(1, _chunk(student) // len(ours))
        for begin in range(0, len(student), step):
            rows = student[begin:begin + step]
            weight = row_weight[begin:begin + step, None, None]
            log_s, log_t = (
                F.log_softmax(
                    _shifted((x @ y.T).div_(temperature).unflatten(
                        1, (groups, size)), shift), dim=2)
                for x, y in ((rows, ours),
                             (teacher[begin:begin + step], theirs)))
            difference = log_t - log_s
            share = log_t.exp_()
            if shift is not None:
                weight = weight * is_seen
                difference.masked_fill_(shift == -math.inf, 0)
            value += (difference.mul_(share) * weight).sum().double()
            if slope is None and column_slope is None:
                continue
            by_logit = log_s.exp_().sub_(share).mul_(
                weight / temperature).flatten(1)
            if slope is not None:
                slope[begin:begin + step] = by_logit @ ours
            if column_slope is not None:
                column_slope.flatten(0, 1).addmm_(by_logit.T, rows)
        ctx.slopes = slope, column_slope
        return value.to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        slopes = (x if x is None else grad * x for x in ctx.slopes)
        return (*slopes, None, None, None, None, None)


def _column_shift(weight):
    """What a column counts (1, G, M), as a logarithm; which groups count."""
    if weight is None:
        return None, None
    is_seen = (weight > 0).any(1)[None, :, None]
    shift = weight.log()[None]
    return shift.where(is_seen, 0), is_seen


def _shifted(logits, shift):
    return logits if shift is None else logits.add_(shift)


def _chunk(maps):
    return CHUNK if maps.device.type == 'cpu' else 128 * CHUNK


def _limit(limits, maps):
    return limits.get(maps.device.type, limits['cuda'])


def cirkd_minibatch_loss(student: Tensor,
                         teacher: Tensor,
                         *,
                         weight: Tensor | None = None,
                         temperature: float = 0.1,
                         pool: int | None = None) -> Tensor:
    r"""Divergence of the similarities of pixels of all pairs of images.

    .. math::
        L = \frac{1}{N^2 M} \sum_{i,j=1}^{N} \sum_{p=1}^{M}
            \mathrm{KL}(q^t_{ij,p} \,\|\, q^s_{ij,p}), \quad
        q_{ij,p} = \mathrm{softmax}_m(f_{i,p} \cdot f_{j,m} / \tau)

    :math:`f_{i,p}` (C) is the feature of pixel :math:`p` of image :math:`i`,
    of length 1, :math:`q_{ij,p}` (M) says which of the M = H * W pixels of
    image :math:`j` it resembles, and :math:`\tau` is the temperature. The
    pairs are ordered, and :math:`i = j` is one. Only similarities are
    compared, so the two maps may differ in channels. The images are those of
    one rank; a run whose batches hold one is refused.

    Cost: N^2 M^2 (3 C_s + C_t) multiplications; a chunk of rows at a time,
    so memory is linear in N M. The gradient is ready with the value and
    cannot be differentiated again.

    Masks: padding and ``foreground`` by ``weight``: the mean over the pixels
    of an image is the weighted one, and the softmax counts a pixel as often
    as it weighs. An image of weight 0 has the value 0 in all its pairs.
    Ignored pixels take part, as in the paper.

    Differs from the paper: in nothing that is known; it has no masks.

    Differs from the official code: that one takes the mean over patches of
    4 x 4 pixels of maps of at least 256 x 256, here of ``pool`` pixels.

    Args:
        student (Tensor): features of the student.
        teacher (Tensor): features of the teacher; detached here.
        weight (Tensor, optional): of the positions, 0 or more; what weighs
            0, such as padding, takes no part. None: all weigh the same.
            Defaults to None.
        temperature (float): divides the similarities. Defaults to 0.1.
        pool (int, optional): side of the patches in pixels. 1 or None: every
            pixel on its own. Defaults to None.

    Shape:
        - student: (N, C_s, H, W).
        - teacher: (N, C_t, H, W).
        - weight: (N, 1, H, W).

    Returns:
        Tensor: scalar, the mean over pairs of images and over pixels.

    Raises:
        TypeError: if the maps are not floating point.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Cross-Image Relational Knowledge Distillation for Semantic
        Segmentation, CVPR 2022, arXiv:2204.06986, winycg/CIRKD (dab64db).

    Example:
        >>> import torch
        >>> student = torch.tensor([[1., 0.], [0., 1.]]).view(1, 2, 1, 2)
        >>> teacher = torch.ones(1, 3, 1, 2)
        >>> loss = cirkd_minibatch_loss(student, teacher, temperature=1.0)
        >>> round(loss.item(), 4)
        0.1201
    """
    check_maps(student, teacher, same_channels=False)
    check_positive('temperature', temperature)
    check_integer_or_none('pool', pool, minimum=1)
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = normalise_weight(weight, student)
        if weight is not None:
            student = student.masked_fill(weight == 0, 0)
            teacher = teacher.masked_fill(weight == 0, 0)
            weight = pooled_weight(weight, pool).flatten(1)
        student, teacher = (
            unit_length(pooled(x, pool)).flatten(2).transpose(1, 2)
            for x in (student, teacher))
        count, size = student.shape[:2]
        row_weight = student.new_full((count, size), 1 / size)
        if weight is not None:
            total = weight.sum(1, keepdim=True)
            row_weight = weight / total.where(total > 0, 1)
        student = student.contiguous()
        return _Divergence.apply(
            student.flatten(0, 1), student, teacher.flatten(0, 1), teacher,
            row_weight.flatten() / count**2, weight, temperature)


def cirkd_memory_loss(student: Tensor,
                      teacher: Tensor,
                      *,
                      label: Tensor | None = None,
                      weight: Tensor | None = None,
                      memory: Tensor,
                      temperature: float = 0.1,
                      kd_temperature: float = 1.0,
                      ignore_index: int | None = 255,
                      sync_ranks: bool = False) -> Tensor:
    r"""Divergence of the similarities of pixels to what is in a memory.

    .. math::
        L = \frac{T^2}{|V|} \sum_{p \in V}
            \mathrm{KL}(q^t_p \,\|\, q^s_p), \quad
        q_p = \mathrm{softmax}_m(f_p \cdot v_m / (\tau T))

    :math:`f_p` (C) is the feature of a valid pixel, of length 1,
    :math:`v_m` (C) one of the M vectors of the memory, which are features
    of the teacher, and :math:`\tau` and :math:`T` are the temperatures.

    Cost: a chunk of pixels at a time, so memory is linear in the pixels and
    in M. The gradient is ready with the value and cannot be differentiated
    again.

    Masks: ignored pixels, padding and ``foreground``: the mean over the
    pixels is the weighted one.

    Differs from the paper and from the official code: in nothing that is
    known; they have no weights.

    Args:
        student (Tensor): features of the student, in the space of the
            teacher's.
        teacher (Tensor): features of the teacher; detached here.
        label (Tensor, optional): integer class labels, of any size; resized
            to the maps by nearest neighbour. Defaults to None.
        weight (Tensor, optional): of the positions, 0 or more; what weighs
            0, such as padding, takes no part. None: all weigh the same.
            Defaults to None.
        memory (Tensor): vectors of length 1 to compare with.
        temperature (float): divides the similarities. Defaults to 0.1.
        kd_temperature (float): divides them once more, and its square
            multiplies the value. Defaults to 1.0.
        ignore_index (int, optional): label of the pixels that take no part.
            None: every pixel takes part. Defaults to 255.
        sync_ranks (bool): whether the mean is over the pixels of all ranks,
            each of which makes this call then. Defaults to False.

    Shape:
        - student, teacher: (N, C, H, W).
        - label: (N, H0, W0) or (N, 1, H0, W0).
        - weight: (N, 1, H, W).
        - memory: (M, C).

    Returns:
        Tensor: scalar, the mean over the valid pixels.

    Raises:
        TypeError: if the maps are not floating point or the labels are not
            integers.
        ValueError: if shapes do not agree or an argument is out of range.

    Reference:
        Cross-Image Relational Knowledge Distillation for Semantic
        Segmentation, CVPR 2022, arXiv:2204.06986, winycg/CIRKD (dab64db).

    Example:
        >>> import torch
        >>> student = torch.tensor([[1., 0.], [0., 1.]]).view(1, 2, 1, 2)
        >>> memory = torch.eye(2)
        >>> loss = cirkd_memory_loss(
        ...     student, torch.ones(1, 2, 1, 2), memory=memory, temperature=1)
        >>> round(loss.item(), 4)
        0.1201
    """
    check_maps(student, teacher)
    _check_temperatures(temperature, kd_temperature)
    check_integer_or_none('ignore_index', ignore_index)
    if memory.ndim != 2 or memory.shape[1] != student.shape[1]:
        raise ValueError(
            f'memory must have shape (M, {student.shape[1]}), but got '
            f'{tuple(memory.shape)}')
    with autocast_off(student):
        student, teacher = full_precision(student, teacher)
        weight = weight_of_valid(student, label, ignore_index, weight)
        if weight is None:
            weight = student.new_ones(len(student), 1, *student.shape[2:])
        rows, theirs = (
            unit_length(x.masked_fill(weight == 0, 0)).flatten(2).transpose(
                1, 2).flatten(0, 1) for x in (student, teacher))
        share = weight.flatten() / total_weight(weight, sync_ranks)
        memory = memory.detach().to(rows)[None]
        value = _Divergence.apply(
            rows.contiguous(), memory, theirs, memory, share, None,
            temperature * kd_temperature)
        return kd_temperature**2 * value


def _check_temperatures(temperature, kd_temperature):
    check_positive('temperature', temperature)
    check_positive('kd_temperature', kd_temperature)


class CIRKDMiniBatchLoss(DistillationLoss):
    """Pixels of all pairs of images: :func:`cirkd_minibatch_loss`.

    Args:
        temperature (float): divides the similarities. Defaults to 0.1.
        pool (int, optional): side of the patches in pixels. 1 or None: every
            pixel on its own. Defaults to None.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> features = torch.rand(2, 16, 9, 12)
        >>> CIRKDMiniBatchLoss()(features, 3 * features).item() < 1e-6
        True
    """
    channels = 'any'
    takes_weight = True
    needs_positions = True
    needs_images = True

    def __init__(self, temperature: float = 0.1, pool: int | None = None):
        super().__init__()
        check_positive('temperature', temperature)
        check_integer_or_none('pool', pool, minimum=1)
        self.temperature = temperature
        self.pool = pool

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse one channel, whose direction is fixed, and one pixel."""
        if student.shape[1] == 1:
            raise ValueError(
                'CIRKDMiniBatchLoss compares directions of features, and one '
                'channel has none; use ValueLoss for depth and other values, '
                "or source='features'")
        if max(student.shape[2:]) <= (self.pool or 1):
            raise ValueError(
                'CIRKDMiniBatchLoss compares the pixels of an image, and '
                f'pool={self.pool!r} makes one of {student.shape[2]} x '
                f'{student.shape[3]}; use a smaller pool or a finer level')

    def check_cost(self, images: int, student: Tensor,
                   teacher: Tensor) -> str | None:
        """Warn of many pairs; of too many unless ``pool`` was chosen."""
        pool = self.pool or 1
        height, width = (-(-side // pool) for side in student.shape[2:])
        pairs = (images * height * width)**2
        times, many = pairs / PAIRS, _limit(MANY, student)
        if times < many:
            return None
        said = (
            f'CIRKDMiniBatchLoss compares {pairs:.1e} pairs of pixels in a '
            f'step ({images} images of {height} x {width}), {times:.3g} '
            'times as many as in the paper; write '
            f'pool={pool * math.ceil((times / min(1, many))**0.25)} to '
            'compare patches of that side')
        if self.pool is None and times >= _limit(TOO_MANY, student):
            raise ValueError(f'{said}, or pool=1 for every pixel all the same')
        return said

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                weight: Tensor | None = None) -> Tensor:
        """See :func:`cirkd_minibatch_loss`."""
        return cirkd_minibatch_loss(
            student, teacher, weight=weight, temperature=self.temperature,
            pool=self.pool)


class Projector(nn.Module):
    """Takes the student's features into the space of the teacher's.

    Two 1x1 convolutions without bias, with a norm by the statistics of the
    batch, of all ranks with ``sync_ranks``, and a ReLU between them.

    Args:
        channels (int): of the student.
        out_channels (int): of the teacher.

    Shape:
        - Input: (N, channels, H, W).
        - Output: (N, out_channels, H, W).

    Example:
        >>> import torch
        >>> Projector(4, 8)(torch.rand(1, 4, 5, 6)).shape
        torch.Size([1, 8, 5, 6])
    """

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.norm = InputNorm(out_channels)
        self.second = nn.Conv2d(out_channels, out_channels, 1, bias=False)

    def forward(self, maps: Tensor, sync_ranks: bool = False) -> Tensor:
        """The projected map, in the precision of the weights."""
        maps = self.first(maps.to(self.first.weight.dtype))
        # the mean of a constant map is off by a rounding error, which the
        # norm would blow up: it takes away what is left here
        maps = maps - batch_mean(maps, sync_ranks)
        return self.second(F.relu(self.norm(maps, sync_ranks)))


class ClassQueues(nn.Module):
    """For each class the latest unit vectors, the oldest replaced first.

    They are buffers, so they are saved and resumed; at first they are random
    directions.

    Args:
        num_classes (int): how many queues there are.
        length (int): vectors in each.
        channels (int): of a vector.

    Attributes:
        places (Tensor): where the next vector of each class goes.

    Example:
        >>> import torch
        >>> queues = ClassQueues(2, 3, 4)
        >>> queues.push(torch.eye(4)[:2], torch.tensor([1, 1]))
        >>> queues.vectors[1, :2].tolist() == torch.eye(4)[:2].tolist()
        True
        >>> queues.places
        tensor([0, 2])
    """

    slots: Tensor
    places: Tensor

    def __init__(self, num_classes: int, length: int, channels: int):
        super().__init__()
        # the last one takes what belongs to no class, so that no number of
        # vectors has to be known on the host
        slots = torch.randn(num_classes * length + 1, channels)
        self.register_buffer('slots', unit_length(slots))
        self.register_buffer('places', torch.zeros(
            num_classes, dtype=torch.long))

    @property
    def vectors(self) -> Tensor:
        """The queues, (num_classes, length, channels)."""
        return self.slots[:-1].unflatten(0, (len(self.places), -1))

    @torch.no_grad()
    def push(self, vectors: Tensor, classes: Tensor) -> None:
        """Put vectors (m, channels) into the queues of their classes (m).

        A class of ``num_classes`` stands for none.
        """
        number = len(self.places)
        length = self.vectors.shape[1]
        classes, order, rank, count = _ranked(classes, number + 1)
        # of more than there is room for, only the latest
        stays = (classes < number) & (rank >= (count - length)[classes])
        of_class = classes.clamp(max=number - 1)
        place = (self.places[of_class] + rank) % length
        slot = (of_class * length + place).where(stays, number * length)
        self.slots[slot] = vectors[order].to(self.slots)
        self.places.add_(count[:number]).remainder_(length)

    def sample(self, count: int) -> Tensor:
        """As many of each class, at random places (classes * count, C)."""
        length = self.vectors.shape[1]
        if count >= length:
            return self.slots[:-1]
        chosen = torch.randperm(length, device=self.slots.device)[:count]
        return self.vectors[:, chosen].flatten(0, 1)


def _ranked(groups, number):
    """The members of each group, numbered.

    Returns:
        tuple: The groups in order (m), where each came from, its number in
        its group, and the size of each group (number).
    """
    groups, order = groups.sort(stable=True)
    count = groups.new_zeros(number).scatter_add_(
        0, groups, torch.ones_like(groups))
    first = count.cumsum(0) - count
    rank = torch.arange(len(groups), device=groups.device) - first[groups]
    return groups, order, rank, count


class CIRKDMemoryLoss(DistillationLoss):
    r"""Pixels of the batch and of earlier ones: :func:`cirkd_memory_loss`.

    .. math::
        L = \lambda_p L_{pixel} + \lambda_r L_{region}

    Both terms are that function, on the features of the student behind a
    projector. Their memories are queues of the teacher's features, one for
    each class: of at most ``pixels_per_class`` pixels, chosen at random, of
    each class in each image, and of the mean of the pixels of each class in
    each image. A call puts the batch into the queues first, that of all
    ranks with ``sync_ranks``, in the same order in each; then it draws
    ``pixel_samples`` and ``region_samples`` of each class. In eval mode
    nothing is put in.

    Projector and queues are made by :meth:`build` or at the first call. An
    epoch puts at most ``pixels_per_class`` times the images of the training
    set into a queue of pixels, and as many as the images into one of regions.
    A longer queue would hold older vectors of the same images: one that is
    asked for is refused (:meth:`fit_data`). The queues are buffers, K *
    (pixel_memory + region_memory) * C_t numbers: 0.9 GB for 19 classes and
    512 channels, also in each checkpoint. With several ranks all must have
    equally many images.

    Masks: ignored pixels, and all whose label is no class, are in no queue
    and have no value; padding likewise. ``foreground`` weighs the mean.

    Differs from the official code: its queues of pixels get the first pixels
    of the map in place of those of the class, and start again where the next
    vectors do not fit in; its ranks choose pixels of their own, so their
    queues differ.

    Args:
        pixel_weight (float): weight of the term on pixels. Defaults to 0.1.
        region_weight (float): weight of the term on regions. Defaults to
            0.1.
        temperature, kd_temperature (float): see :func:`cirkd_memory_loss`.
            Default to 0.1 and 1.0.
        pixel_memory (int, optional): length of a queue of pixels. None:
            20000 as in the paper, or what an epoch puts in, if that is
            less. Defaults to None.
        region_memory (int, optional): length of a queue of regions. None:
            2000, or what an epoch puts in. Defaults to None.
        pixel_samples (int): pixels drawn of each class. Defaults to 4096.
        region_samples (int): regions drawn of each class. Defaults to 1024.
        pixels_per_class (int): new pixels of each class and image. Defaults
            to 16.
        num_classes (int, optional): how many queues there are. None: the
            classes of the student's head. Defaults to None.
        ignore_index (int | str, optional): label of the pixels that take no
            part. None: every pixel takes part. 'head': the one of the
            student's head, or 255 without a run. Defaults to 'head'.

    Raises:
        ValueError: if an argument is out of range, or the number of classes
            or the labels are missing.

    Example:
        >>> import torch
        >>> loss = CIRKDMemoryLoss(
        ...     num_classes=3, pixel_memory=50, region_memory=20)
        >>> label = torch.arange(64).remainder(3).view(1, 8, 8).repeat(
        ...     2, 1, 1)
        >>> student, teacher = torch.rand(2, 4, 8, 8), torch.rand(2, 6, 8, 8)
        >>> loss(student, teacher, label=label).backward()
        >>> loss.pixels.places, loss.regions.places
        (tensor([32, 32, 32]), tensor([2, 2, 2]))
    """
    channels = 'any'
    takes_weight = True
    num_classes: Any  # None until the hook says
    projector: Any  # None until build(), as the others
    pixels: Any
    regions: Any
    needs_label = True
    needs_positions = True

    def __init__(self,
                 pixel_weight: float = 0.1,
                 region_weight: float = 0.1,
                 temperature: float = 0.1,
                 kd_temperature: float = 1.0,
                 pixel_memory: int | None = None,
                 region_memory: int | None = None,
                 pixel_samples: int = 4096,
                 region_samples: int = 1024,
                 pixels_per_class: int = 16,
                 num_classes: int | None = None,
                 ignore_index: int | str | None = 'head'):
        super().__init__()
        check_not_negative('pixel_weight', pixel_weight)
        check_not_negative('region_weight', region_weight)
        _check_temperatures(temperature, kd_temperature)
        check_integer_or_none('pixel_memory', pixel_memory, minimum=1)
        check_integer_or_none('region_memory', region_memory, minimum=1)
        for name, value in (('pixel_samples', pixel_samples),
                            ('region_samples', region_samples),
                            ('pixels_per_class', pixels_per_class)):
            check_integer(name, value, minimum=1)
        check_integer_or_none('num_classes', num_classes, minimum=1)
        check_ignore_index(ignore_index)
        self.pixel_weight = pixel_weight
        self.region_weight = region_weight
        self.temperature = temperature
        self.kd_temperature = kd_temperature
        self.pixel_memory = pixel_memory
        self.region_memory = region_memory
        self._lengths = {name: getattr(self, name) or length
                         for name, length in LENGTHS.items()}
        self.pixel_samples = pixel_samples
        self.region_samples = region_samples
        self.pixels_per_class = pixels_per_class
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        for name in ('projector', 'pixels', 'regions'):
            self.register_module(name, None)

    def build(self, student: Tensor, teacher: Tensor,
              image: Tensor | None) -> None:
        """Make projector and queues, anew if there were any."""
        if self.num_classes is None:
            raise ValueError('num_classes must be an integer where no head '
                             'says how many there are, but got None')
        channels = teacher.shape[1]
        self.projector = Projector(student.shape[1], channels)
        self.pixels = ClassQueues(
            self.num_classes, self._lengths['pixel_memory'], channels)
        self.regions = ClassQueues(
            self.num_classes, self._lengths['region_memory'], channels)
        self.to(student.device)

    def fit_data(self, images: int) -> None:
        """Refuse a queue that is longer than what an epoch puts into it."""
        for name, each, of in (
                ('pixel_memory', self.pixels_per_class,
                 f' of {self.pixels_per_class} pixels'),
                ('region_memory', 1, '')):
            length, filled = getattr(self, name), each * images
            if length is not None and length > filled:
                raise ValueError(
                    f'{name} = {length}: longer than the data; {images} '
                    f'images{of} put {filled} vectors of a class into the '
                    'queue in an epoch at most, the rest would be older ones '
                    f'of the same images; {filled} or fewer, or leave it out')
            self._lengths[name] = min(length or LENGTHS[name], filled)

    def check(self, student: Tensor, teacher: Tensor) -> None:
        """Refuse a teacher of one channel, whose direction is fixed."""
        if teacher.shape[1] == 1:
            raise ValueError(
                'CIRKDMemoryLoss compares directions of features, and one '
                'channel has none; use ValueLoss for depth and other values, '
                "or source='features'")

    def check_cost(self, images: int, student: Tensor,
                   teacher: Tensor) -> str | None:
        """Warn of many pairs."""
        pixels = min(self.pixel_samples, self._lengths['pixel_memory'])
        regions = min(self.region_samples, self._lengths['region_memory'])
        count = (self.num_classes or 0) * (pixels + regions)
        pairs = images * student[0, 0].numel() * count
        times, many = pairs / MEMORY_PAIRS, _limit(MANY, student)
        if times < many:
            return None
        fewer = math.ceil(times / min(1, many)) + 1
        return (
            f'CIRKDMemoryLoss compares {images} images of '
            f'{student.shape[2]} x {student.shape[3]} pixels with {count:,} '
            f'vectors in a step, {times:.3g} times the pairs of the paper; '
            f'write pixel_samples={max(1, pixels // fewer)}, region_samples='
            f'{max(1, regions // fewer)} to draw fewer')

    def forward(self,
                student: Tensor,
                teacher: Tensor,
                *,
                label: Tensor | None = None,
                weight: Tensor | None = None) -> Tensor:
        """The weighted sum of both terms."""
        check_maps(student, teacher, same_channels=False)
        if label is None:
            raise ValueError('label must hold the class of each pixel, but '
                             'got None; use a loss that needs none, '
                             "type='FitNetsLoss' with source='features'")
        if self.projector is None:
            self.build(student, teacher, None)
        with autocast_off(student):
            student, teacher = full_precision(student, teacher)
            student = self.projector(student, self.sync_ranks)
            weight = weight_of_valid(
                student, label, self.ignored_label, weight)
            label = resize_label(label, student)
            is_class = ((label >= 0) & (label < self.num_classes))[:, None]
            weight = is_class.to(student) if weight is None else (
                weight * is_class)
            if self.training:
                self._remember(unit_length(teacher), label, weight[:, 0] > 0)
            total = student.new_zeros(())
            for share, queues, count in (
                    (self.pixel_weight, self.pixels, self.pixel_samples),
                    (self.region_weight, self.regions, self.region_samples)):
                total = total + share * cirkd_memory_loss(
                    student, teacher, weight=weight,
                    memory=queues.sample(count), temperature=self.temperature,
                    kd_temperature=self.kd_temperature,
                    sync_ranks=self.sync_ranks)
            return total

    @torch.no_grad()
    def _remember(self, teacher, label, is_valid):
        """Put the batch of all ranks into the queues."""
        teacher, classes = teacher.flatten(2), self.num_classes
        label = label.where(is_valid, classes).flatten(1)
        for queues, found in (
                (self.regions, _regions(teacher, label, classes)),
                (self.pixels, _pixels(
                    teacher, label, classes, self.pixels_per_class))):
            queues.push(*(_of_all_ranks(x) if self.sync_ranks else x
                          for x in found))


def _regions(maps, label, num_classes):
    """Of each image (N, C, P) the mean of each class (N K, C).

    And the class (N K), ``num_classes`` where the image has none of it, as
    the label (N, P) of a pixel that belongs to no class.
    """
    classes = torch.arange(num_classes, device=label.device)
    of_class = label[..., None] == classes
    # the sum has the direction of the mean
    sums = (maps @ of_class.to(maps)).transpose(1, 2).flatten(0, 1)
    classes = classes.where(of_class.any(1), num_classes)
    return unit_length(sums), classes.flatten()


def _pixels(maps, label, num_classes, count):
    """Of each image (N, C, P) so many pixels of each class, and the class.

    Both have N K count entries, with the class ``num_classes`` where there
    are not as many.
    """
    images, size = label.shape
    image = torch.arange(images, device=label.device)[:, None]
    group = (image * (num_classes + 1) + label).flatten()
    shuffled = torch.randperm(len(group), device=group.device)
    group, order, rank, _ = _ranked(
        group[shuffled], images * (num_classes + 1))
    image, of_class = group // (num_classes + 1), group % (num_classes + 1)
    entries = images * num_classes * count
    entry = ((image * num_classes + of_class) * count + rank).where(
        (of_class < num_classes) & (rank < count), entries)
    chosen = group.new_full((entries + 1, ), -1)
    chosen[entry] = shuffled[order]
    chosen = chosen[:-1]
    classes = torch.arange(num_classes, device=label.device).repeat_interleave(
        count).repeat(images).where(chosen >= 0, num_classes)
    chosen = chosen.clamp(min=0)
    return maps[chosen // size, :, chosen % size], classes


def _of_all_ranks(values):
    """The same of all ranks, which have equally many, one behind another."""
    found = [torch.empty_like(values)
             for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, values.contiguous())
    return torch.cat(found)
