"""What the losses do with maps: precision, weighted means, label size."""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-8
LEAST = 1e-12  # square of a norm that counts as 0


def check_maps(student: Tensor,
               teacher: Tensor,
               same_channels: bool = True,
               same_size: bool = True) -> None:
    """Raise unless both are non-empty 4-D float maps of equal shape.

    Args:
        student (Tensor): map of the student.
        teacher (Tensor): map of the teacher.
        same_channels (bool): whether the channel counts must agree too.
        same_size (bool): whether H and W must agree.
    """
    for name, tensor in (('student', student), ('teacher', teacher)):
        if not tensor.is_floating_point():
            raise TypeError(f'{name} must be a floating point tensor, '
                            f'but got {tensor.dtype}')
    shapes = (f'got student {tuple(student.shape)} and '
              f'teacher {tuple(teacher.shape)}')
    if student.ndim != 4 or teacher.ndim != 4:
        raise ValueError(f'maps must have 4 axes (N, C, H, W), but {shapes}')
    if student.numel() == 0 or teacher.numel() == 0:
        raise ValueError(f'maps must not be empty, but {shapes}')
    if same_channels and student.shape != teacher.shape:
        raise ValueError(f'maps must have the same shape, but {shapes}')
    if same_size and student.shape[2:] != teacher.shape[2:]:
        raise ValueError(
            f'maps must have the same N, H and W, but {shapes}')
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(f'maps must have the same N, but {shapes}')


def autocast_off(tensor: Tensor) -> torch.autocast:
    """Context without autocast on the device of ``tensor``."""
    return torch.autocast(tensor.device.type, enabled=False)


def full_precision(student: Tensor,
                   teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps in their common type, float32 at least; teacher detached."""
    dtype = torch.promote_types(student.dtype, teacher.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def mean_over(values: Tensor,
              weight: Tensor | None = None,
              sync_ranks: bool = False) -> Tensor:
    """Weighted mean of the values.

    DDP averages the gradients of the ranks. With ``sync_ranks`` a rank
    therefore divides by the mean total weight of all ranks: then a value of
    some weight counts the same on every rank.

    Args:
        values (Tensor): any shape.
        weight (Tensor, optional): weights of the same shape, 0 or more; or a
            mask. None: all weigh the same.
        sync_ranks (bool): whether the mean is over all ranks. Each of them
            has to call this then, with weights or without.

    Returns:
        Tensor: scalar, exactly 0 where no weight is above 0.
    """
    if weight is None:
        if not sync_ranks:
            return values.mean()
        weight = torch.ones_like(values)
    weight = weight.to(values)
    values = values.masked_fill(weight == 0, 0) * weight
    return values.sum() / total_weight(weight, sync_ranks)


def total_weight(weight: Tensor, sync_ranks: bool = False) -> Tensor:
    """What a weighted sum is divided by to be a mean; see :func:`mean_over`.

    Returns:
        Tensor: scalar, above 0.
    """
    total = weight.sum()
    if sync_ranks:
        torch.distributed.all_reduce(total)
        total = total / torch.distributed.get_world_size()
    return total.where(total > 0, 1)


def sum_over_ranks(values: Tensor, sync_ranks: bool = True) -> Tensor:
    """The sum over all ranks, which have to call this; with gradient.

    Args:
        values (Tensor): of one shape in all ranks.
        sync_ranks (bool): False: the values as they are.
    """
    if not sync_ranks:
        return values
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(values.contiguous())


def normalise_weight(weight: Tensor | None, maps: Tensor) -> Tensor | None:
    """The weights of positions, with a sum of 1 in each image.

    Args:
        weight (Tensor, optional): (N, 1, H, W), 0 or more. Where all of an
            image are 0 they stay 0.
        maps (Tensor): what is weighted, (N, C, H, W); gives the type.

    Returns:
        Tensor | None: (N, 1, H, W), None where ``weight`` is.
    """
    if weight is None:
        return None
    shape = (len(maps), 1, *maps.shape[2:])
    if weight.shape != shape:
        raise ValueError(f'weight must have shape {shape}, but got '
                         f'{tuple(weight.shape)}')
    weight = weight.detach().to(maps)
    total = weight.sum((1, 2, 3), keepdim=True)
    return weight / total.where(total > 0, 1)


def weight_of_valid(maps: Tensor,
                    label: Tensor | None = None,
                    ignore_index: int | None = None,
                    weight: Tensor | None = None) -> Tensor | None:
    """The weights without the pixels whose label is ignored.

    Args:
        maps (Tensor): what is weighted, (N, C, H, W).
        label (Tensor, optional): integer class labels, of any size.
        ignore_index (int, optional): label of the pixels that take no part.
            None: all take part.
        weight (Tensor, optional): (N, 1, H, W), 0 or more.

    Returns:
        Tensor | None: (N, 1, H, W), None where all weigh the same.
    """
    if weight is not None:
        normalise_weight(weight, maps)  # checks the shape
        weight = weight.detach().to(maps)
    if label is None or ignore_index is None:
        return weight
    valid = (resize_label(label, maps) != ignore_index)[:, None].to(maps)
    return valid if weight is None else valid * weight


def pooled(maps: Tensor, pool: int | None, mode: str = 'avg') -> Tensor:
    """The maps in patches; what lies beyond the border does not count.

    Args:
        maps (Tensor): (N, C, H, W).
        pool (int, optional): side of a patch; 1 or None: the maps.
        mode (str): 'avg' or 'max'.
    """
    if pool is None or pool == 1:
        return maps
    if mode == 'max':
        return F.max_pool2d(maps, pool, ceil_mode=True)
    return F.avg_pool2d(maps, pool, ceil_mode=True, count_include_pad=False)


def pooled_weight(weight: Tensor, pool: int | None) -> Tensor:
    """Mean over the pixels of a patch that weigh more than 0 (N, 1, h, w)."""
    total = pooled(weight, pool)
    count = pooled((weight > 0).to(weight), pool)
    return total / count.where(count > 0, 1)


def unit_length(maps: Tensor) -> Tensor:
    """Vectors (N, C, ...) of length 1; a vector of length 0 stays that."""
    norm = maps.norm(dim=1, keepdim=True)
    # by a tiny number instead it would get a slope that no half can hold
    return maps / norm.where(norm > 1e-12, 1)


def masked_mean(maps: Tensor, axes: tuple[int, ...],
                mask: Tensor | None) -> Tensor:
    """Mean over ``axes`` where the ``mask`` (N, 1, H, W) is set.

    The axes stay, with length 1.
    """
    if mask is None:
        return maps.mean(axes, keepdim=True)
    count = mask.expand_as(maps).sum(axes, keepdim=True).clamp(min=1)
    return maps.masked_fill(~mask, 0).sum(axes, keepdim=True) / count


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of values (N, C, H, W) by weights whose sum is 1 in an image."""
    if weight is None:
        return values.mean()
    return (values.masked_fill(weight == 0, 0) * weight).sum(
        (2, 3)).mean()


def tempered(maps: Tensor, temperature: float | Tensor) -> Tensor:
    """The maps through the temperature; 1 leaves them as they are."""
    if not isinstance(temperature, Tensor) and temperature == 1:
        return maps
    return maps / temperature


class _SoftmaxDivergence(torch.autograd.Function):
    """The slope is ready with the value: one map is kept, not four."""

    @staticmethod
    def forward(ctx, student, teacher, dim, temperature):
        ours, theirs = (F.log_softmax(tempered(x, temperature), dim=dim)
                        for x in (student, teacher))
        share = theirs.exp()
        value = theirs.sub_(ours).mul_(share).sum(dim, keepdim=True)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(ours.exp_().sub_(share))
            ctx.temperature = temperature
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        slope, = ctx.saved_tensors
        return slope * (grad / ctx.temperature), None, None, None


def softmax_divergence(student: Tensor, teacher: Tensor, dim: int,
                       temperature: float = 1.0) -> Tensor:
    """KL divergence of the student's softmax from the teacher's.

    Args:
        student (Tensor): any shape.
        teacher (Tensor): the same shape; gets no gradient.
        dim (int): what the softmax is over; it stays, with length 1.
        temperature (float): divides both. Defaults to 1.0.
    """
    return _SoftmaxDivergence.apply(student, teacher, dim, temperature)


def channel_correlation_loss(student: Tensor, teacher: Tensor,
                             weight: Tensor | None,
                             sync_ranks: bool = False) -> Tensor:
    """1 - the correlation of the positions of all images, over channels.

    Args:
        student (Tensor): (N, C, H, W).
        teacher (Tensor): (N, C, H, W).
        weight (Tensor, optional): (N, 1, H, W), 0 or more.
        sync_ranks (bool): whether the images are those of all ranks.

    Returns:
        Tensor: scalar, the mean over the channels; 0 where nothing weighs
        more than 0.
    """
    total = student.new_tensor(student[:, 0].numel()) if weight is None else (
        weight.sum())
    if weight is not None:
        left_out = weight == 0
        student, teacher = (
            x.masked_fill(left_out, 0) for x in (student, teacher))

    def pixels(x):
        x = x if weight is None else x * weight
        return sum_over_ranks(x.sum((0, 2, 3)), sync_ranks)

    total = sum_over_ranks(total, sync_ranks)
    count = total.where(total > 0, 1)
    student, teacher = (
        x - (pixels(x) / count)[:, None, None] for x in (student, teacher))
    similar = correlation(student, teacher, pixels)
    return (1 - similar).mean() * (total > 0)


def correlation(a: Tensor, b: Tensor,
                total: Callable[[Tensor], Tensor]) -> Tensor:
    """Of centred values; ``total`` sums what belongs together.

    Where one side is all the same it is 0.
    """
    ours, theirs = total(a.square()), total(b.square())
    known = torch.minimum(ours, theirs) > LEAST
    norms = (ours * theirs).where(known, 1).sqrt()
    return (total(a * b) / (norms + EPS)).where(known, 0)


def resize_label(label: Tensor, logits: Tensor) -> Tensor:
    """Labels at the size of the logits, by nearest neighbour.

    Args:
        label (Tensor): integers of shape (N, H0, W0) or (N, 1, H0, W0).
        logits (Tensor): logits of shape (N, K, H, W).

    Returns:
        Tensor: int64 labels of shape (N, H, W).
    """
    if label.is_floating_point() or label.dtype == torch.bool:
        raise TypeError(f'label must hold integers, but got {label.dtype}')
    maps = label[:, None] if label.ndim == 3 else label
    if maps.ndim != 4 or maps.shape[1] != 1 or len(maps) != len(logits):
        raise ValueError(
            'label must have shape (N, H, W) or (N, 1, H, W) with the N of '
            f'the logits, but got label {tuple(label.shape)} and '
            f'logits {tuple(logits.shape)}')
    if maps.numel() == 0:
        raise ValueError(
            f'label must not be empty, but got label {tuple(label.shape)} '
            f'and logits {tuple(logits.shape)}')
    # interpolate takes no int64; float32 holds every label below 2**24
    maps = F.interpolate(maps.float(), size=logits.shape[2:], mode='nearest')
    return maps[:, 0].long()
