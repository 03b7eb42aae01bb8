"""A detector's head of a user's own: one line, and it is distilled."""
import pytest
from helpers import train
from mmdet.models import FCOSHead
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from mmseg.models import FCNHead
from torch import nn

from mmselfkd import ConfigError, register_head
from mmselfkd.hosts import Reading, host_of
from mmselfkd.hosts.heads import find_head_spec


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


@pytest.mark.parametrize('host, options, source, says', [
    ('mmdet', dict(classes='my_clas'), 'logits', [
        'logits of a MyHead', "no attribute 'my_clas'; nearest: 'my_cls'"]),
    ('mmdet', dict(classes='my_cls', boxes='my_box'), 'boxes', [
        "no attribute 'my_box'", "'my_reg'"]),
    ('mmdet', dict(boxes='my_reg', bins='strids'), 'boxes', [
        "bins='strids'", "no attribute 'strids'"]),
    ('mmseg', dict(classes='conv_sg'), 'logits', [
        '`decode_head.conv_sg`', "no attribute 'conv_sg'", "'conv_seg'"]),
    ('mmseg', dict(classes='conv_seg', features='conv_ca'), 'features', [
        "no attribute 'conv_ca'; nearest: 'conv_cat'"]),
    ('mmseg', dict(classes='conv_seg', size='out_chanels'), 'logits', [
        "no attribute 'out_chanels'; nearest: 'out_channels'"]),
    ('mmdet', dict(classes=lambda head: 'my_cls'), 'logits', ['a Place'])])
def test_an_attribute_that_does_not_exist(host, options, source, says,
                                          outside):
    """What is registered, and the nearest that there is."""
    if host == 'mmdet':
        model = nn.Module()
        with DefaultScope.overwrite_default_scope('mmdet'):
            model.bbox_head = MyHead(2, 8, feat_channels=8, norm_cfg=None)
        name = 'MyHead'
    else:
        model = nn.Module()
        model.decode_head = FCNHead(
            in_channels=4, channels=4, num_classes=3, num_convs=1)
        name = 'FCNHead'
    register_head(name, **options)
    with pytest.raises(ConfigError) as error:
        host_of(model).place(model, source, f'source = {source!r}')
    for text in (f'register_head({name!r}', *says):
        assert text in str(error.value)


@pytest.mark.parametrize('options', [
    dict(activation='sigmoids'), dict(classes=3), dict(features=['conv'])])
def test_what_cannot_be_registered(options, outside):
    with pytest.raises(ConfigError, match=r"register_head\('MyHead', "):
        register_head('MyHead', **options)


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_the_activation_that_is_said(activation, outside):
    register_head('MyOwnHead', classes='conv', activation=activation)
    head = type('MyOwnHead', (nn.Module, ), {})()
    head.conv = nn.Conv2d(1, 1, 1)
    place = find_head_spec(head).place(head, 'classes')
    assert place.modules == [head.conv]
    assert place.reading == Reading('classes', activation)


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
