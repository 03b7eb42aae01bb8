"""A head of your own, whose layers have other names.

``python examples/own_head.py`` distils a network with it on toy data. The
line that matters is ``register_head``, at the end of the class. In your
project it stands beside your head, in the module that your config imports
already, say ``own_head.py``::

    custom_imports = dict(imports=['own_head'])
    model = dict(decode_head=dict(type='SumHead', ...))
    custom_hooks = [
        dict(
            type='mmselfkd.DistillHook',
            teacher=dict(config='teacher.py', checkpoint='teacher.pth'),
            losses=dict(
                loss_kd=dict(type='KDLoss', source='logits'),
                loss_nfd=dict(type='NFDLoss', source='features')))
    ]

Student and teacher may have different heads: ``logits`` and ``features`` mean
the same in both.
"""
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmselfkd import register_head


@MODELS.register_module()
class SumHead(BaseDecodeHead):
    """Adds up the levels, and classifies by ``classifier``."""

    def __init__(self, **kwargs) -> None:
        super().__init__(
            input_transform='multiple_select',
            init_cfg=dict(type='Normal', std=0.01,
                          override=dict(name='classifier')), **kwargs)
        self.mix = ConvModule(
            self.in_channels[0], self.channels, 3, padding=1,
            norm_cfg=self.norm_cfg)
        del self.conv_seg  # the classifier of other heads
        self.classifier = nn.Conv2d(self.channels, self.num_classes, 1)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        first, *others = self._transform_inputs(inputs)
        for level in others:
            first = first + resize(level, first.shape[2:], mode='bilinear')
        return self.classifier(self.mix(first))


# Where the class scores come from. `features` is then what enters this layer.
# The activation is that of the head's loss; a head that hides it says
# activation='sigmoid'. A detector's head names its box layer too:
# register_head('MyHead', classes='my_cls', boxes='my_reg').
register_head('SumHead', classes='classifier')


if __name__ == '__main__':
    from toy_run import UNTRAINED, train

    head = dict(
        _delete_=True, type='SumHead', in_channels=[16] * 4,
        in_index=[0, 1, 2, 3], channels=16, num_classes=7,
        norm_cfg=dict(type='BN'), align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True))
    train('work_dirs/own_head', dict(
        type='mmselfkd.DistillHook',
        teacher=UNTRAINED,
        losses=dict(
            loss_kd=dict(type='KDLoss', source='logits'),
            loss_nfd=dict(type='NFDLoss', source='features'))),
        model=dict(decode_head=head))
