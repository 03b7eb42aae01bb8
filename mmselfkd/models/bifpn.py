"""Bidirectional feature pyramid (the self-teacher of FRSKD)."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..checks import check_bool, check_choice, check_integer
from ..registry import MODELS

__all__ = ['BiFPN', 'BiFPNLayer', 'Fusion']


@MODELS.register_module()
class BiFPN(BaseModule):
    r"""Refine a pyramid on a way down and a way back up, with shares learnt.

    .. math::
        P_n = L_n, \quad P_i = f(L_i, up(P_{i+1})), \quad i = n-1 \ldots 1

        T_1 = P_1, \quad T_i = f(L'_i, P_i, down(T_{i-1})), \quad
        T_n = f(L'_n, down(T_{n-1}))

        f(x_1, \ldots, x_m) = block\Big(\frac{\sum_j relu(w_j) x_j}
        {\sum_j relu(w_j) + 10^{-6}}\Big)

    for the levels 1 (finest) to n. Every map here is behind a ReLU, the
    inputs too. L and, from level 2 on, L' are two 1 x 1 convolutions of the
    input with norm; from the second layer on L is the input itself. The
    block is ``num_convs`` times a depthwise 3 x 3 and a pointwise 1 x 1
    convolution with norm and ReLU. up takes the nearest value, down is a
    3 x 3 max pooling of stride 2 (H becomes ceil(H / 2)) as often as it
    takes, then the nearest value where halving misses the next size; between
    levels of equal size neither. A 1 x 1 convolution with norm and ReLU
    follows on both.

    With a loss on all outputs every parameter has a gradient; with
    ``last='top_down'`` a loss on the finest output is enough.

    Differs from the papers: EfficientDet has one width for all levels
    (``out_channels``), BiFPNc multiplies the width of each (``width``), and
    their levels always halve. Here further levels are 3 x 3 convolutions of
    stride 2 with norm and ReLU on the last input.

    The defaults are BiFPNc, the self-teacher of the official classification
    code.

    Differs from the official code: its segmentation part fuses by plain sums
    (``weighted=False``), has a scale per channel in place of the block,
    takes the inputs as they are (``relu_inputs=False``), and returns the P
    of the last layer (``last='top_down'``).

    Args:
        in_channels (list[int]): channels of the inputs, finest first.
        out_channels (int | list[int], optional): channels of all outputs or
            of each. None: ``width`` times those of the input, rounded; levels
            added take those of the last one. Defaults to None.
        width (float): used with ``out_channels=None``. Defaults to 2.
        num_outs (int, optional): levels; those beyond the inputs are coarser
            ones. Defaults to None: as many as inputs.
        num_layers (int): ways down and up. Defaults to 1.
        num_convs (int): depth of each block. Defaults to 2.
        weighted (bool): learn the shares w, which start equal. False: plain
            sums without parameters. Defaults to True.
        last (str): what the last layer returns, ``'bottom_up'``: T, or
            ``'top_down'``: P, and it has no way up. Defaults to 'bottom_up'.
        relu_inputs (bool): take the positive part of the inputs. False: as
            they are. Defaults to True.
        norm_cfg (dict): norm of all convolutions. Defaults to
            dict(type='BN').
        init_cfg (dict, optional): see mmengine's BaseModule.

    Shape:
        - inputs: ``len(in_channels)`` maps (N, in_channels[i], H_i, W_i) of
          any size.
        - Output: tuple of ``num_outs`` maps (N, out_channels[i], H_i, W_i),
          none negative; H and W of each level added are ceil(H / 2) and
          ceil(W / 2) of the level before.

    Raises:
        ValueError: if an argument is out of range or the number of maps is
            not that of ``in_channels``.

    Reference:
        Refine Myself by Teaching Myself: Feature Refinement via
        Self-Knowledge Distillation, CVPR 2021, arXiv:2103.08273,
        MingiJi/FRSKD (98b87e5).
        EfficientDet: Scalable and Efficient Object Detection, CVPR 2020,
        arXiv:1911.09070.

    Example:
        >>> import torch
        >>> neck = BiFPN([4, 8], num_outs=3)
        >>> outs = neck([torch.rand(2, 4, 9, 6), torch.rand(2, 8, 5, 3)])
        >>> [tuple(out.shape[1:]) for out in outs]
        [(8, 9, 6), (16, 5, 3), (16, 3, 2)]
    """

    def __init__(self,
                 in_channels: Sequence[int],
                 out_channels: int | Sequence[int] | None = None,
                 width: float = 2,
                 num_outs: int | None = None,
                 num_layers: int = 1,
                 num_convs: int = 2,
                 weighted: bool = True,
                 last: str = 'bottom_up',
                 relu_inputs: bool = True,
                 norm_cfg: dict | None = dict(type='BN'),  # noqa: B006
                 init_cfg: dict | list | None = None):
        super().__init__(init_cfg)
        if isinstance(in_channels, int) or len(in_channels) < 2:
            raise ValueError('BiFPN fuses levels: two or more are needed, but '
                             f'got in_channels={in_channels!r}')
        num_ins = len(in_channels)
        if num_outs is None:
            num_outs = num_ins
        if num_outs < num_ins:
            raise ValueError(f'num_outs must be {num_ins} (the number of '
                             f'inputs) or more, but got {num_outs!r}')
        check_integer('num_layers', num_layers, minimum=1)
        check_integer('num_convs', num_convs, minimum=1)
        check_bool('weighted', weighted)
        check_bool('relu_inputs', relu_inputs)
        check_choice('last', last, ('bottom_up', 'top_down'))
        self.in_channels = list(in_channels)
        self.relu_inputs = relu_inputs
        self.out_channels = _channels(
            self.in_channels, out_channels, width, num_outs)

        added = [self.in_channels[-1]] + self.out_channels[num_ins:]
        self.extra_convs = nn.ModuleList(
            _conv(a, b, 3, norm_cfg, stride=2, padding=1)
            for a, b in zip(added, added[1:]))
        channels = self.in_channels + self.out_channels[num_ins:]
        self.layers = nn.ModuleList()
        for i in range(num_layers):
            self.layers.append(BiFPNLayer(
                channels, self.out_channels, num_convs, weighted, norm_cfg,
                laterals=i == 0,
                bottom_up=i < num_layers - 1 or last == 'bottom_up'))
            channels = self.out_channels

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The refined maps, finest first."""
        if len(inputs) != len(self.in_channels):
            raise ValueError(f'BiFPN was made for {len(self.in_channels)} '
                             f'maps, but got {len(inputs)}')
        maps = [F.relu(x) for x in inputs] if self.relu_inputs else (
            list(inputs))
        for conv in self.extra_convs:
            maps.append(conv(maps[-1]))
        for layer in self.layers:
            maps = layer(maps)
        return tuple(maps)


class BiFPNLayer(nn.Module):
    """One way down and, where wanted, one way up: see :class:`BiFPN`.

    Args:
        in_channels (list[int]): channels of the inputs, finest first.
        channels (list[int]): channels of the outputs.
        num_convs (int): depth of each block.
        weighted (bool): learn the shares of the sums.
        norm_cfg (dict): norm of all convolutions.
        laterals (bool): 1 x 1 convolutions before the way down.
        bottom_up (bool): go back up.

    Shape:
        - inputs: list of maps (N, in_channels[i], H_i, W_i), none negative
          without ``laterals``.
        - Output: list of maps (N, channels[i], H_i, W_i), none negative.

    Example:
        >>> import torch
        >>> layer = BiFPNLayer([2, 2], [2, 2], 1, True, dict(type='BN'))
        >>> outs = layer([torch.rand(2, 2, 4, 4), torch.rand(2, 2, 2, 2)])
        >>> [tuple(out.shape) for out in outs]
        [(2, 2, 4, 4), (2, 2, 2, 2)]
    """

    def __init__(self,
                 in_channels: Sequence[int],
                 channels: Sequence[int],
                 num_convs: int,
                 weighted: bool,
                 norm_cfg: dict | None,
                 laterals: bool = True,
                 bottom_up: bool = True):
        super().__init__()
        finer, coarser = channels[:-1], channels[1:]

        def convs(before, after):
            return nn.ModuleList(
                _conv(a, b, 1, norm_cfg) for a, b in zip(before, after))

        self.laterals = convs(in_channels, channels) if laterals else None
        self.up_convs = convs(coarser, finer)
        self.up_nodes = nn.ModuleList(
            Fusion(2, c, num_convs, weighted, norm_cfg) for c in finer)
        self.bottom_up = bottom_up
        if bottom_up:
            self.second_laterals = convs(in_channels[1:], coarser)
            self.down_convs = convs(finer, coarser)
            counts = [3] * (len(coarser) - 1) + [2]
            self.down_nodes = nn.ModuleList(
                Fusion(count, c, num_convs, weighted, norm_cfg)
                for count, c in zip(counts, coarser))

    def forward(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Maps of the inputs' sizes."""
        tops = list(inputs)
        if self.laterals is not None:
            tops = [conv(x) for conv, x in zip(self.laterals, tops)]
        for i in reversed(range(len(tops) - 1)):
            up = self.up_convs[i](_up(tops[i + 1], tops[i].shape[2:]))
            tops[i] = self.up_nodes[i](tops[i], up)
        if not self.bottom_up:
            return tops
        outs = tops[:1]
        for i in range(1, len(tops)):
            maps = [self.second_laterals[i - 1](inputs[i])]
            if i < len(tops) - 1:
                maps.append(tops[i])
            down = _down(outs[-1], tops[i].shape[2:])
            maps.append(self.down_convs[i - 1](down))
            outs.append(self.down_nodes[i - 1](*maps))
        return outs


class Fusion(nn.Module):
    """Block of depthwise separable convolutions on a sum of equal maps.

    Args:
        num_maps (int): maps to be summed.
        channels (int): channels of the maps and of the output.
        num_convs (int): depth of the block.
        weighted (bool): learn the share of each map; False: a plain sum.
        norm_cfg (dict): norm behind each pointwise convolution.

    Shape:
        - maps: ``num_maps`` of (N, channels, H, W).
        - Output: (N, channels, H, W), not negative.

    Example:
        >>> fusion = Fusion(2, 4, 1, True, dict(type='BN'))
        >>> fusion.weights.data = torch.tensor([3., -1.])
        >>> fusion.shares().round(decimals=3).tolist()
        [1.0, 0.0]
    """
    eps = 1e-6

    def __init__(self, num_maps: int, channels: int, num_convs: int,
                 weighted: bool, norm_cfg: dict | None):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(num_maps)) if weighted else None
        convs = []
        for _ in range(num_convs):
            convs += [  # no bias in front of a bias or norm
                nn.Conv2d(channels, channels, 3, padding=1, groups=channels,
                          bias=False),
                _conv(channels, channels, 1, norm_cfg)]
        self.block = nn.Sequential(*convs)

    def shares(self) -> Tensor:
        """The weights as they enter the sum: none negative, total 1."""
        assert self.weights is not None
        weights = F.relu(self.weights)
        return weights / (weights.sum() + self.eps)

    def forward(self, *maps: Tensor) -> Tensor:
        """The fused map."""
        if self.weights is not None:
            maps = tuple(
                share * x for share, x in zip(self.shares(), maps))
        return self.block(sum(maps[1:], maps[0]))


def _conv(in_channels, out_channels, kernel_size, norm_cfg, **kwargs):
    """Convolution, norm and ReLU; what it is given and gives stays as is."""
    return ConvModule(
        in_channels, out_channels, kernel_size, norm_cfg=norm_cfg,
        inplace=False, **kwargs)


def _channels(in_channels, out_channels, width, num_outs):
    """Channels of every output level."""
    if out_channels is None:
        if width <= 0:
            raise ValueError(f'width must be above 0, but got {width!r}')
        out_channels = [max(1, round(width * c)) for c in in_channels]
        out_channels += out_channels[-1:] * (num_outs - len(in_channels))
    elif isinstance(out_channels, int):
        out_channels = [out_channels] * num_outs
    if len(out_channels) != num_outs or min(out_channels) < 1:
        raise ValueError('out_channels must be 1 or more for each of the '
                         f'{num_outs} output levels, but got '
                         f'{out_channels!r}')
    return list(out_channels)


def _up(x, size):
    """The nearest values at ``size``."""
    return x if x.shape[2:] == size else F.interpolate(x, size=size)


def _down(x, size):
    """Max pooling down to ``size``; the nearest values for what is left."""
    while x.shape[2:] != size:
        height, width = x.shape[2:]
        if (height + 1) // 2 < size[0] or (width + 1) // 2 < size[1]:
            return F.interpolate(x, size=size)
        # one zero behind an even axis, one on both sides of an odd one
        x = F.max_pool2d(F.pad(x, (width % 2, 1, height % 2, 1)), 3, 2)
    return x
