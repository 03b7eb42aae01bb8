"""Backbones of the benchmark with ImageNet weights, from the hosts' blocks."""
import torch
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmdet.models.backbones import EfficientNet
from mmengine.hooks import Hook
from mmengine.model import BaseModule
from mmengine.registry import HOOKS, MODELS


def _blocks(repeats, kernel, channels, stride, expansion):
    """Rows of ``EfficientNet.layer_settings`` without squeeze-and-excite."""
    return [[kernel, channels, 0, stride if i == 0 else 1, expansion, 0]
            for i in range(repeats)]


@MODELS.register_module()
class EfficientNetLite2(EfficientNet):
    """EfficientNet-Lite2: mmdet's EfficientNet with ReLU6 and no
    squeeze-and-excite; stem, first and last stage are not scaled.

    Levels of stride 4, 8, 16 and 32 with 24, 48, 120 and 352 channels.

    Args:
        kwargs: The arguments of mmdet's EfficientNet, but for ``arch``.
    """

    layer_settings = {
        'l': [
            [[3, 32, 0, 2, 0, -1]],
            _blocks(1, 3, 16, 1, 1),
            _blocks(3, 3, 24, 2, 6),
            _blocks(3, 5, 48, 2, 6),
            _blocks(4, 3, 88, 2, 6) + _blocks(4, 5, 120, 1, 6),
            _blocks(5, 5, 208, 2, 6) + _blocks(1, 3, 352, 1, 6),
            [[1, 1280, 0, 1, 0, -1]],
        ]
    }
    arch_settings = {'lite2': (1.0, 1.0, 260)}

    def __init__(self, **kwargs):
        super().__init__(
            arch='lite2',
            out_indices=(2, 3, 4, 5),
            act_cfg=dict(type='ReLU6'),
            **kwargs)


@MODELS.register_module()
class MobileNetV1(BaseModule):
    """MobileNetV1 (https://arxiv.org/abs/1704.04861) with TensorFlow's
    padding.

    Levels of stride 4, 8, 16 and 32 with 128, 256, 512 and 1024 channels
    times ``width``.

    Args:
        width (float): Factor of all numbers of channels.
        norm_eval (bool): Whether normalisation uses the running statistics
            in training too, as in mmdet's backbones.
        init_cfg (dict, optional): How the weights are initialised.
    """

    layers = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
              *[(512, 1)] * 5, (1024, 2), (1024, 1))
    ends = (2, 4, 10, 12)

    def __init__(self, width=1.0, norm_eval=False, init_cfg=None):
        super().__init__(init_cfg)
        self.norm_eval = norm_eval
        cfg = dict(
            conv_cfg=dict(type='Conv2dAdaptivePadding'),
            norm_cfg=dict(type='BN', eps=1e-3),
            act_cfg=dict(type='ReLU6'))
        channels = int(32 * width)
        self.stem = ConvModule(3, channels, 3, stride=2, **cfg)
        self.blocks = torch.nn.ModuleList()
        for out, stride in self.layers:
            out = int(out * width)
            self.blocks.append(
                DepthwiseSeparableConvModule(
                    channels, out, 3, stride=stride, **cfg))
            channels = out

    def forward(self, x):
        x = self.stem(x)
        levels = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.ends:
                levels.append(x)
        return tuple(levels)

    def train(self, mode=True):
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
        return self


@HOOKS.register_module()
class ChannelsLast(Hook):
    """Trains in the memory format that is faster on a CPU."""

    def before_run(self, runner):
        runner.model.to(memory_format=torch.channels_last)
