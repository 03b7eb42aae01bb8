"""How the levels of a teacher are packed to be stored, and unpacked again.

Parts are batches of tensors, one entry for each image, so what is stored of
an image is a slice of each part.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..sources import Levels

Parts = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Packing:
    r"""One level of one source.

    In ``precision='fp16'`` numbers of more bits are rounded to half precision.
    With ``top_k`` of class scores z under a softmax the K largest of a
    position are kept and, of the others, the log of their mass,

    .. math::
        r = \log \sum_{c \notin K} e^{z_c}

    which is shared out evenly when it is unpacked: each of the C - K others
    gets :math:`r - \log(C - K)`. So the probabilities of the K classes are
    kept, and those of the others are wrong by at most their mass, which is
    the largest total variation distance from what was packed.

    Attributes:
        name (str): In front of the names of the parts.
        dtype (str): What the level is in: ``'float32'``.
        order (tuple[int]): Its dimensions as they lie in memory.
        precision (str): ``'fp16'`` or ``'fp32'``.
        top_k (int | None): Class scores that are kept; None: all.
        classes (int): Channels that belong together, where ``top_k`` is.
    """
    name: str
    dtype: str
    order: tuple[int, ...]
    precision: str
    top_k: int | None = None
    classes: int = 0

    @classmethod
    def of(cls, level: torch.Tensor, name: str, precision: str,
           top_k: int | None = None, classes: int | None = None) -> 'Packing':
        """That of a level (N, C, ...) and all that are like it."""
        strides = level.stride()
        order = sorted(range(level.dim()), key=lambda i: -strides[i])
        return cls(name, str(level.dtype).removeprefix('torch.'),
                   tuple(order), precision, top_k, classes or level.shape[1])

    def parts(self) -> list[str]:
        """The names of what :meth:`pack` makes."""
        return [self.name] if self.top_k is None else [
            f'{self.name}.{part}' for part in ('scores', 'classes', 'rest')]

    def pack(self, level: torch.Tensor) -> Parts:
        """The parts of a level.

        Raises:
            ValueError: A number is too large for fp16.
        """
        if self.top_k is None:
            return {self.name: self._rounded(level)}
        scores = level.unflatten(1, (-1, self.classes))  # anchors apart
        kept, which = scores.topk(self.top_k, 2)
        rest = scores.scatter(2, which, -torch.inf).logsumexp(2)
        small = torch.uint8 if self.classes <= 256 else torch.int16
        return dict(zip(self.parts(), (
            self._rounded(kept), which.to(small), self._rounded(rest))))

    def unpack(self, parts: Parts) -> torch.Tensor:
        """The level that is seen, packed by :meth:`pack`."""
        dtype = getattr(torch, self.dtype)
        if self.top_k is None:
            return self._laid_out(parts[self.name].to(dtype))
        kept, which, rest = (parts[name] for name in self.parts())
        others = torch.tensor(float(self.classes - self.top_k)).log()
        level = (rest.to(dtype) - others).unsqueeze(2).repeat_interleave(
            self.classes, 2)
        level.scatter_(2, which.long(), kept.to(dtype))
        return self._laid_out(level.flatten(1, 2))

    def _rounded(self, values: torch.Tensor) -> torch.Tensor:
        if self.precision != 'fp16':
            return values
        half = values.half()
        if not bool(half.isfinite().all()) and bool(values.isfinite().all()):
            raise ValueError(
                f'{float(values.abs().max()):.3g} is too large for fp16; say '
                "precision='fp32'")
        return half

    def _laid_out(self, level: torch.Tensor) -> torch.Tensor:
        """In memory as the level was, since sums go through it in order."""
        if self.order == tuple(range(level.dim())):
            return level
        back = sorted(range(level.dim()), key=self.order.__getitem__)
        return level.permute(self.order).contiguous().permute(back)


def unpacked(packings: Mapping[str, Sequence[Packing]],
             records: Sequence[Parts], sources: Sequence[str]
             ) -> dict[str, Levels]:
    """The levels of a batch, by source, from what is stored of its images.

    Args:
        packings (dict): Of each level, by source.
        records (Sequence[dict]): The slices of each image.
        sources (Sequence[str]): Which are wanted.
    """
    return {source: [packing.unpack({
        name: torch.stack([record[name] for record in records])
        for name in packing.parts()}) for packing in packings[source]]
        for source in sources}
