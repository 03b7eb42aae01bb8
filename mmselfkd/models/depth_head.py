"""A light convolutional depth head for mmseg's DepthEstimator."""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from ..registry import MODELS

__all__ = ['DepthHead', 'Range']

try:
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead
except ModuleNotFoundError as error:
    if error.name != 'mmseg':
        raise

    class BaseDecodeHead:  # type: ignore[no-redef]
        """An error as soon as the head is built."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise ImportError(
                f'{type(self).__name__} is a head of mmseg, which is missing;'
                ' install onedl-mmsegmentation or mmsegmentation')


@MODELS.register_module()
class DepthHead(BaseDecodeHead):
    r"""Depth in metres from the levels of a backbone or a neck.

    .. math::
        P_n = L_n(x_n), \quad P_i = L_i(x_i) + up(P_{i+1}), \quad
        d = a + (b - a)\, \sigma(c(f(P_1)))

    for the levels 1 (finest) to n: L is a 1 x 1 and f a 3 x 3 convolution
    with norm and ReLU, c a 1 x 1 convolution to one channel, up bilinear
    interpolation, and a and b are ``min_depth`` and ``max_depth``. The depth
    map has the size of the finest level; like class scores it is resized
    bilinearly, to the ground truth for the loss and to the image for the
    prediction.

    The loss is ``loss_decode`` over the valid pixels, those whose true depth
    is a number in [a, b]; all others (0: not measured; padding) count
    nothing. An image without a valid pixel is left out of the mean over the
    images, and a batch without one gives an exact 0.

    For distillation: the module ``conv_depth`` is c together with the mapping
    behind it, so a tap on it sees the depth map d, in metres, the same
    quantity whatever teacher and student are built of. What enters it is the
    fused feature map, behind the ``dropout`` of the head if it has one.

    Args:
        in_channels (list[int]): Channels of the levels, finest first.
        channels (int): Channels of the fused map.
        min_depth (float): a, in metres. Defaults to 1e-3.
        max_depth (float): b, in metres. Defaults to 10.
        dropout_ratio (float): Of whole channels, in front of ``conv_depth``.
            0: none. Defaults to 0.
        loss_decode (dict | list[dict]): Called with prediction and ground
            truth (N, 1, H, W), where 0 is invalid. Defaults to mmseg's
            dict(type='mmseg.SiLogLoss').
        init_cfg (dict): See mmengine's BaseModule. Defaults to a normal
            distribution for ``conv_depth``, which starts in the middle of
            the range.
        **kwargs: ``in_index``, ``conv_cfg``, ``norm_cfg``, ``act_cfg`` and
            ``align_corners``, as ``BaseDecodeHead`` takes them.

    Shape:
        - inputs: maps (N, in_channels[i], H_i, W_i), any sizes.
        - Output: (N, 1, H_1, W_1), in metres.

    Raises:
        ImportError: Without mmseg.
        ValueError: If ``in_channels`` is no list or the range is empty.

    Reference:
        The task and its weights: Structured Knowledge Distillation for Dense
        Prediction, TPAMI 2020, arXiv:1903.04197. The loss: Depth Map
        Prediction from a Single Image using a Multi-Scale Deep Network, NIPS
        2014, arXiv:1406.2283.

    Example:
        >>> head = DepthHead([4, 8], 6, in_index=[0, 1], min_depth=1.)
        >>> depth = head([torch.rand(2, 4, 8, 6), torch.rand(2, 8, 4, 3)])
        >>> depth.shape, bool(((depth > 1) & (depth < 10)).all())
        (torch.Size([2, 1, 8, 6]), True)
    """

    def __init__(self,
                 in_channels: Sequence[int],
                 channels: int,
                 min_depth: float = 1e-3,
                 max_depth: float = 10.,
                 dropout_ratio: float = 0.,
                 loss_decode: dict | Sequence[dict] = dict(  # noqa: B006
                     type='mmseg.SiLogLoss'),
                 init_cfg: dict | list | None = dict(  # noqa: B006
                     type='Normal', std=0.01,
                     override=dict(name='conv_depth')),
                 **kwargs: Any) -> None:
        if not isinstance(in_channels, (list, tuple)):
            raise ValueError(f'in_channels = {in_channels!r}: a list with '
                             'the channels of every level is needed')
        if not 0 < min_depth < max_depth:
            raise ValueError(f'min_depth = {min_depth!r}, max_depth = '
                             f'{max_depth!r}: 0 < min_depth < max_depth is '
                             'needed')
        super().__init__(
            in_channels,
            channels,
            num_classes=1,
            threshold=0.,  # of binary class scores; unused
            dropout_ratio=dropout_ratio,
            input_transform='multiple_select',
            loss_decode=loss_decode,
            init_cfg=init_cfg,
            **kwargs)
        del self.conv_seg
        self.min_depth, self.max_depth = min_depth, max_depth
        parts = dict(
            conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg, inplace=False)
        self.laterals = nn.ModuleList(
            ConvModule(c, channels, 1, **parts) for c in in_channels)
        self.fusion = ConvModule(channels, channels, 3, padding=1, **parts)
        self.conv_depth = nn.Sequential(
            nn.Conv2d(channels, 1, 1), Range(min_depth, max_depth))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The depth map at the size of the finest level."""
        levels = self._transform_inputs(inputs)
        maps = [conv(x) for conv, x in zip(self.laterals, levels)]
        fused = maps.pop()
        while maps:
            finer = maps.pop()
            fused = finer + self._resized(fused, finer)
        fused = self.fusion(fused)
        if self.dropout is not None:
            fused = self.dropout(fused)
        return self.conv_depth(fused)

    def loss_by_feat(self, depth: Tensor, batch_data_samples: list) -> dict:
        """``loss_decode`` over the valid pixels, by the name of each.

        Args:
            depth (Tensor): Output of :meth:`forward`.
            batch_data_samples (list): N samples with ``gt_depth_map``.
        """
        truth = self._stack_batch_gt(batch_data_samples)
        depth = self._resized(depth, truth)
        valid = (truth >= self.min_depth) & (truth <= self.max_depth)
        truth = torch.where(valid, truth, torch.zeros_like(truth))
        used = valid.flatten(1).any(1)
        losses: dict[str, Tensor] = {}
        own: Any = self.loss_decode
        parts: list[Any] = list(own) if isinstance(
            own, nn.ModuleList) else [own]
        for loss in parts:
            value = loss(depth[used], truth[used]) if used.any() else (
                depth.sum() * 0)
            losses[loss.loss_name] = value + losses.get(loss.loss_name, 0)
        return losses

    def _stack_batch_gt(self, batch_data_samples: list) -> Tensor:
        return torch.stack([s.gt_depth_map.data for s in batch_data_samples])

    def _resized(self, x: Tensor, like: Tensor) -> Tensor:
        if x.shape[2:] == like.shape[2:]:
            return x
        return F.interpolate(
            x, size=like.shape[2:], mode='bilinear',
            align_corners=self.align_corners)


class Range(nn.Module):
    """Any number to one between two bounds, by a sigmoid.

    Args:
        low (float): The lower bound.
        high (float): The upper bound.

    Example:
        >>> Range(2., 4.)(torch.tensor([-1000., 0., 1000.]))
        tensor([2., 3., 4.])
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Values in [low, high], of the shape of ``x``."""
        return self.low + (self.high - self.low) * x.sigmoid()

    def extra_repr(self) -> str:
        """The bounds, for the text of a model."""
        return f'{self.low}, {self.high}'
