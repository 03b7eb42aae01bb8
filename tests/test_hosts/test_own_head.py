"""A detector's head of a user's own: one line, and it is distilled."""
import pytest
from helpers import train
from mmdet.models import FCOSHead
from mmdet.registry import MODELS

from mmselfkd import ConfigError, register_head
from mmselfkd.hosts import host_of


class MyHead(FCOSHead):
    """FCOS with other names for its last layers."""

    def _init_predictor(self):
        super()._init_predictor()
        self.my_cls, self.my_reg = self.conv_cls, self.conv_reg
        del self.conv_cls, self.conv_reg

    def forward_single(self, x, scale, stride):
        features = x
        for layer in self.cls_convs:
            features = layer(features)
        for layer in self.reg_convs:
            x = layer(x)
        return (self.my_cls(features), scale(self.my_reg(x)).float().exp(),
                self.conv_centerness(x))


@pytest.fixture
def config(detectors, tmp_path):
    losses = dict(
        loss_kd=dict(type='KDLoss', source='logits', foreground=0.5))
    cfg = detectors.config(tmp_path, 'fcos', dict(
        type='mmselfkd.DistillHook', teacher=detectors.teacher('fcos', 16),
        losses=losses))
    cfg.model.bbox_head.update(type='MyHead', init_cfg=None)
    MODELS.register_module(module=MyHead)
    yield cfg
    MODELS.module_dict.pop('MyHead')


def test_one_line_makes_a_head_known(config, outside):
    with pytest.raises(ConfigError, match=(
            "logits of a MyHead is not known.*'my_cls'.*register_head")):
        train(config)
    register_head('MyHead', classes='my_cls', boxes='my_reg')
    runner, logs = train(config)
    for log in logs.entries:
        assert log['distill.loss_kd'] > 0
    head = runner.model.bbox_head
    for source, layer in (('logits', head.my_cls), ('boxes', head.my_reg),
                          ('bbox_head.my_cls', head.my_cls)):
        place = host_of(runner.model).place(runner.model, source, 'source')
        assert place.modules == [layer]
        assert place.reading.kind == (
            'classes' if layer is head.my_cls else 'values')
