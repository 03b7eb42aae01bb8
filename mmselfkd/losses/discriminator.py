"""Discriminator of score maps (structured knowledge distillation)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.nn.utils import parametrize

from ..checks import check_integer
from ._maps import autocast_off, sum_over_ranks

__all__ = [
    'Block', 'Discriminator', 'InputNorm', 'SelfAttention', 'SpectralNorm'
]


class InputNorm(nn.Module):
    """Standardise every channel by the statistics of the whole batch.

    Mean and biased variance are taken over (n, h, w), always of the batch at
    hand: there are no running buffers. With ``sync_ranks`` they are those of
    all ranks together (equal shapes in each), and the exchange can be
    differentiated twice; every rank has to make the same calls then.

    Args:
        channels (int): number of channels.
        eps (float): added to the variance. Defaults to 1e-5.

    Shape:
        - Input and output: (N, channels, H, W).

    Example:
        >>> import torch
        >>> out = InputNorm(2)(torch.rand(4, 2, 8, 8) * 100 + 5)
        >>> bool(out.mean().abs() < 1e-4)
        True
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.eps = eps

    def forward(self, x: Tensor, sync_ranks: bool = False) -> Tensor:
        """Standardised ``x``, scaled and shifted."""
        if not sync_ranks:
            return torch.batch_norm(
                x, self.weight.flatten(), self.bias.flatten(), None, None,
                True, 0., self.eps, torch.backends.cudnn.enabled)
        x = x - batch_mean(x, sync_ranks)
        x = x / (batch_mean(x.square(), sync_ranks) + self.eps).sqrt()
        return x * self.weight + self.bias


def batch_mean(x, sync_ranks):
    """Mean over (n, h, w), of all ranks if wanted, (1, C, 1, 1)."""
    mean = x.mean((0, 2, 3), keepdim=True)
    if sync_ranks:
        mean = sum_over_ranks(mean) / distributed.get_world_size()
    return mean


class SelfAttention(nn.Module):
    """Add to every position what it attends to: x + gamma * attention(x).

    Queries and keys have an eighth of the channels; gamma starts at 0. Keys
    and values are averaged down to 32 x 32 positions at most, so memory is
    linear in the size of larger maps; smaller ones keep all their positions.
    It is written in plain products, because a gradient penalty
    differentiates twice.

    Args:
        channels (int): number of channels, 8 or more.

    Shape:
        - Input and output: (N, channels, H, W).

    Reference:
        Self-Attention Generative Adversarial Networks, ICML 2019,
        arXiv:1805.08318.

    Example:
        >>> import torch
        >>> x = torch.rand(1, 16, 5, 3)
        >>> torch.equal(SelfAttention(16)(x), x)
        True
    """
    max_side = 32

    def __init__(self, channels: int):
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` with what its positions attend to."""
        context = x
        if max(x.shape[2:]) > self.max_side:
            context = F.adaptive_avg_pool2d(
                x, (min(x.shape[2], self.max_side),
                    min(x.shape[3], self.max_side)))
        query = _linear(x, self.query).flatten(1, 2)
        key = _linear(context, self.key).flatten(1, 2)
        value = _linear(context, self.value).flatten(1, 2)
        attention = (query @ key.transpose(1, 2)).softmax(dim=2)
        attended = (attention @ value).unflatten(1, x.shape[2:])
        return x + self.gamma * attended.permute(0, 3, 1, 2)


def _linear(x, conv):
    """The 1 x 1 convolution of (N, C, H, W), as (N, H, W, C)."""
    return F.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias)


class SpectralNorm(nn.Module):
    """Spectral norm of a weight, by one power iteration a call in training.

    For ``register_parametrization``: the parametrized attribute is the norm,
    a scalar :math:`u^T W v`, which can be differentiated by the weight
    :math:`W`. Inside of ``parametrize.cached()`` all uses of it are one call.

    Args:
        weight (Tensor): (O, I). Its vectors u and v begin with 15 iterations.

    Shape:
        - Input: (O, I).
        - Output: scalar.

    Reference:
        Spectral Normalization for Generative Adversarial Networks, ICLR
        2018, arXiv:1802.05957.

    Example:
        >>> import torch
        >>> norm = SpectralNorm(torch.diag(torch.tensor([3., 1.]))).eval()
        >>> round(norm(torch.diag(torch.tensor([3., 1.]))).item(), 3)
        3.0
    """
    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        for name, size in zip('uv', weight.shape):
            self.register_buffer(
                name, F.normalize(torch.randn(size).to(weight), dim=0))
        for _ in range(15):
            self._iterate(weight)

    @torch.no_grad()
    def _iterate(self, weight: Tensor) -> None:
        with autocast_off(weight):
            self.u = F.normalize(weight @ self.v, dim=0)
            self.v = F.normalize(self.u @ weight, dim=0)

    def forward(self, weight: Tensor) -> Tensor:
        """The norm of ``weight``."""
        if self.training:
            self._iterate(weight)
        return self.u @ (weight @ self.v)


class Block(nn.Module):
    """Spectrally normalised 4 x 4 convolution of stride 2 and LeakyReLU.

    Computed as one matrix product of the patches, which a gradient penalty
    differentiates by further products: the derivatives of a strided
    convolution are much slower on small maps. The product, not the weight,
    is divided by the spectral norm: the same values from far fewer numbers.

    The map is padded by one zero on each side, and by one more at the end of
    an odd axis: H becomes ceil(H / 2), which is never below 1.

    Args:
        in_channels (int): channels of the input.
        out_channels (int): channels of the output.

    Shape:
        - Input: (N, in_channels, H, W).
        - Output: (N, out_channels, ceil(H / 2), ceil(W / 2)).

    Example:
        >>> import torch
        >>> Block(3, 8)(torch.rand(1, 3, 1, 5)).shape
        torch.Size([1, 8, 1, 3])
    """

    parametrizations: Any

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        conv: Any = nn.Conv2d(in_channels, out_channels, 4)  # its start
        self.bias = conv.bias
        matrix = conv.weight.detach().permute(0, 2, 3, 1).flatten(1)
        self.norm = nn.Parameter(matrix.contiguous())
        parametrize.register_parametrization(
            self, 'norm', SpectralNorm(matrix), unsafe=True)

    @property
    def weight(self) -> Tensor:
        """Of the convolution, not normalised: (O, 4, 4, C) as (O, 16C)."""
        return self.parametrizations.norm.original

    def forward(self, x: Tensor) -> Tensor:
        """Half the size, ``out_channels`` channels."""
        height, width = x.shape[2:]
        x = F.pad(x.permute(0, 2, 3, 1),
                  (0, 0, 1, 1 + width % 2, 1, 1 + height % 2))
        x = F.linear(_patches(x), self.weight) / self.norm + self.bias
        return F.leaky_relu(x, 0.1).permute(0, 3, 1, 2)


def _patches(x):
    """All 4 x 4 patches at a stride of 2, (N, H, W, C) to (.., 16 C)."""
    cells = x.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).transpose(2, 3)
    # two cells of 2 x 2 pixels beside each other, then two of these below
    pairs = torch.stack([cells[:, :, :-1], cells[:, :, 1:]], dim=4)
    return torch.stack([pairs[:, :-1], pairs[:, 1:]], dim=3).flatten(3)


class Discriminator(nn.Module):
    """Score how much the class scores of an image look like the teacher's.

    Five blocks behind a normalisation of the input, which balances image and
    logits: four :class:`Block` of 64, 128, 256 and 512 channels (1, 2, 4 and
    8 times ``width``), with :class:`SelfAttention` after the third and the
    fourth, and one more 4 x 4 convolution to a score map. The score is the
    mean over that map.

    Differs from the paper: its blocks have batch normalisation and ReLU.
    Here they have spectral normalisation and LeakyReLU, as in the code. It
    leaves the padding open; here any size from 1 x 1 on is accepted, and
    the map keeps its size in the last convolution.

    Differs from the official code: that one is built for maps of 65 x 65,
    which its last convolution, without padding, turns into a single score;
    it never sees the image (``image_channels=0``) and keeps running
    statistics in its input normalisation. Padding and mean change the score
    of the same weights.

    Args:
        num_classes (int): channels of the logits.
        image_channels (int): channels of the image that the scores are
            conditioned on. 0: the logits alone. Defaults to 0.
        width (int): channels of the first block, 2 or more. Defaults to 64.

    Shape:
        - logits: (N, num_classes, H, W).
        - image: (N, image_channels, H0, W0), resized to the logits
          bilinearly.
        - Output: (N,).

    Raises:
        ValueError: if an argument is out of range or shapes do not agree.

    Reference:
        Structured Knowledge Distillation for Semantic Segmentation, CVPR
        2019, arXiv:1903.04197,
        irfanICMLL/structure_knowledge_distillation (ce208e1).

    Example:
        >>> import torch
        >>> discriminator = Discriminator(19, image_channels=3)
        >>> image = torch.rand(2, 3, 64, 128)
        >>> discriminator(torch.rand(2, 19, 8, 16), image).shape
        torch.Size([2])
    """

    def __init__(self,
                 num_classes: int,
                 image_channels: int = 0,
                 width: int = 64):
        super().__init__()
        check_integer('width', width, minimum=2)
        if num_classes < 1:
            raise ValueError(
                f'num_classes must be 1 or more, but got {num_classes!r}')
        if image_channels < 0:
            raise ValueError(
                'image_channels must be 0 or more, but got '
                f'{image_channels!r}')
        self.num_classes = num_classes
        self.image_channels = image_channels
        self.sync_ranks = False  # the loss sets it
        channels = num_classes + image_channels
        self.norm = InputNorm(channels)
        self.blocks = nn.Sequential(
            Block(channels, width), Block(width, 2 * width),
            Block(2 * width, 4 * width), SelfAttention(4 * width),
            Block(4 * width, 8 * width), SelfAttention(8 * width))
        self.score = nn.Conv2d(8 * width, 1, 4)

    def forward(self,
                logits: Tensor,
                image: Tensor | None = None,
                batches: int = 1) -> Tensor:
        """Mean score of every image, shape (N,).

        Args:
            logits (Tensor): as above.
            image (Tensor, optional): as above.
            batches (int): of how many batches of the same size the maps
                are, one after the other; each is normalised by its own
                statistics. Defaults to 1.
        """
        if logits.ndim != 4 or logits.shape[1] != self.num_classes:
            raise ValueError(f'logits must have shape (N, {self.num_classes}, '
                             f'H, W), but got {tuple(logits.shape)}')
        if self.image_channels:
            logits = torch.cat([self._resized(image, logits), logits], dim=1)
        x = self.blocks(torch.cat([
            self.norm(batch, self.sync_ranks)
            for batch in logits.chunk(batches)]))
        # an even kernel: one zero before and two after keep the size
        return self.score(F.pad(x, (1, 2, 1, 2))).mean((1, 2, 3))

    def _resized(self, image, logits):
        if image is None:
            raise ValueError('a conditional discriminator needs the image, '
                             'but got None')
        if (image.ndim != 4 or image.shape[1] != self.image_channels
                or len(image) != len(logits)):
            raise ValueError(
                f'image must have shape ({len(logits)}, {self.image_channels}'
                f', H, W), but got image {tuple(image.shape)} and '
                f'logits {tuple(logits.shape)}')
        return F.interpolate(
            image, size=logits.shape[2:], mode='bilinear', align_corners=False)
