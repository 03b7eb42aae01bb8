"""A host from outside the package: mmpose's, without mmpose.

The model below has the shape of mmpose's ``TopdownPoseEstimator`` with a
``HeatmapHead``: attributes, modes, samples, and a head whose ``forward`` is
called directly.
"""

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, InstanceData
from torch import nn

from mmselfkd import ConfigError, DistillHook
from mmselfkd.distillation import ENTRY, DistillationRun
from mmselfkd.hosts import (
    Host,
    find_head_spec,
    host_of,
    register_head,
    register_host,
    temporary_registrations,
)
from mmselfkd.losses import DistillationLoss, kd_loss, nfd_loss
from mmselfkd.teachers import ModelTeacher

KEYPOINTS, SIZE = 5, 32
PHOTOGRAPH = (20, 24)  # smaller than the input that a person is warped to


class KeypointMSELoss(nn.Module):

    def forward(self, output, target, weight):
        return ((output - target).square() * weight[..., None, None]).mean()


class BCELoss(nn.Module):

    def forward(self, output, target, weight):
        return (F.binary_cross_entropy_with_logits(
            output, target, reduction='none') * weight[..., None, None]).mean()


class HeatmapHead(nn.Module):

    def __init__(self, width, loss):
        super().__init__()
        self.final_layer = nn.Conv2d(width, KEYPOINTS, 1)
        self.loss_module = dict(mse=KeypointMSELoss, bce=BCELoss)[loss]()

    def forward(self, feats):
        return self.final_layer(feats[-1])

    def loss(self, feats, samples):
        return dict(loss_kpt=self.loss_module(
            self.forward(feats),
            torch.stack([s.gt_fields.heatmaps for s in samples]),
            torch.cat([s.gt_instance_labels.keypoint_weights
                       for s in samples])))


class Backbone(nn.Module):

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=4, padding=1)

    def forward(self, inputs):
        return (self.conv(inputs).relu(), )


class TinyPose(BaseModel):

    def __init__(self, width, loss='mse', std=60., **kwargs):
        super().__init__(data_preprocessor=dict(
            type='ImgDataPreprocessor', mean=[120.] * 3, std=[std] * 3,
            bgr_to_rgb=True))
        self.backbone = Backbone(width)
        self.head = HeatmapHead(width, loss)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        feats = self.backbone(inputs)
        if mode == 'loss':
            return self.head.loss(feats, data_samples)
        assert mode == 'tensor'
        return self.head.forward(feats)


class PoseDataSample(BaseDataElement):
    pass


class Poses(torch.utils.data.Dataset):

    metainfo = {}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        sample = PoseDataSample(metainfo=dict(
            img_shape=PHOTOGRAPH, input_size=(SIZE, SIZE)))
        sample.gt_fields = BaseDataElement(heatmaps=torch.rand(
            KEYPOINTS, SIZE // 4, SIZE // 4, generator=generator))
        sample.gt_instance_labels = InstanceData(
            keypoint_weights=torch.ones(1, KEYPOINTS))
        return dict(
            inputs=torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8,
                                 generator=generator), data_samples=sample)


class HeatmapLoss(DistillationLoss):
    """The mean squared difference of the heat."""

    channels = 'equal'

    def forward(self, student, teacher):
        return F.mse_loss(student, teacher.detach())


@pytest.fixture(autouse=True)
def host(outside):
    MODELS.register_module(module=TinyPose)
    DATASETS.register_module(module=Poses)
    return outside('tests/mmpose_host.py')


def batch(model):
    items = [Poses()[i] for i in range(4)]
    data = model.data_preprocessor(dict(
        inputs=[item['inputs'] for item in items],
        data_samples=[item['data_samples'] for item in items]), True)
    return data['inputs'], data['data_samples']


def start(student, teacher, **losses):
    """A run without a Runner, on the batch with which it is stepped."""
    hook = DistillHook(dict(type=ModelTeacher, model=teacher), losses)
    inputs, samples = batch(student)
    run = DistillationRun(student, hook.plan, inputs, samples)
    run.attach()
    run.start()
    run.begin_iteration(0)
    return run, inputs, samples


def test_a_run_without_a_runner():
    """Values, gradients and clean-up; against plain forward passes."""
    student, teacher = TinyPose(4), TinyPose(8, std=30.)
    run, inputs, samples = start(
        student, teacher, loss_heat=dict(type=HeatmapLoss, source='heatmaps'),
        loss_nfd=dict(type='NFDLoss', source='features'))
    adapter = student.mmselfkd['loss_nfd']['adapters'][0]
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    before = adapter.weight.detach().clone()
    losses = student(inputs, samples, mode='loss')

    features = student.backbone(inputs)[-1]
    heatmaps = student.head.final_layer(features)
    theirs = teacher.backbone(inputs * 2)[-1]  # half of the deviation
    assert losses['distill.loss_heat'].item() == pytest.approx(F.mse_loss(
        heatmaps, teacher.head.final_layer(theirs)).item(), rel=1e-5)
    # all of the input counts: the photograph's size says nothing of it
    assert losses['distill.loss_nfd'].item() == pytest.approx(
        nfd_loss(adapter(features), theirs).item(), rel=1e-5)

    (losses['distill.loss_heat'] + losses['distill.loss_nfd']).backward()
    assert student.backbone.conv.weight.grad.any()
    assert all(p.grad is None for p in teacher.parameters())
    optimizer.step()
    run.end_iteration()
    assert not torch.equal(adapter.weight, before)

    run.close()
    assert not hasattr(student, 'mmselfkd')
    assert set(student(inputs, samples, mode='loss')) == {'loss_kpt'}


def test_a_run_by_a_runner(tmp_path):
    cfg = Config(dict(
        work_dir=str(tmp_path), experiment_name='pose', log_level='WARNING',
        model=dict(type='TinyPose', width=4),
        train_dataloader=dict(
            batch_size=2, num_workers=0, dataset=dict(type='Poses'),
            sampler=dict(type='DefaultSampler', shuffle=True)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(
            type='mmselfkd.DistillHook',
            teacher=dict(
                config=dict(type='TinyPose', width=8), checkpoint='random'),
            losses=dict(
                loss_heat=dict(type='NFDLoss', source='logits'),
                loss_nfd=dict(type='NFDLoss', source='features')))]))
    runner = Runner.from_cfg(cfg)
    runner.train()
    logged = runner.message_hub.log_scalars
    for name in ('loss_heat', 'loss_nfd'):
        values = logged[f'train/distill.{name}'].data[0]
        assert len(values) == 4 and (values > 0).all()
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert saved['state_dict'].keys() == TinyPose(4).state_dict().keys()
    # heatmaps are equally many, so only the features have an adapter
    assert set(saved[ENTRY]['modules']) == {
        'loss_nfd.adapters.0.weight', 'loss_nfd.adapters.0.bias'}


def test_scores_are_compared_keypoint_by_keypoint():
    student, teacher = TinyPose(4, 'bce'), TinyPose(8, 'bce')
    run, inputs, samples = start(
        student, teacher, loss_kd=dict(type='KDLoss', source='logits'))
    losses = student(inputs, samples, mode='loss')
    own, theirs = (model(inputs).flatten(0, 1)[:, None]
                   for model in (student, teacher))
    assert losses['distill.loss_kd'].item() == pytest.approx(kd_loss(
        own, theirs, ignore_index=None, activation='sigmoid').item(),
        rel=1e-5)
    run.close()


@pytest.mark.parametrize('source', ['logits', 'head.final_layer'])
def test_heat_is_no_score(source):
    with pytest.raises(ConfigError, match='gives values'):
        start(TinyPose(4), TinyPose(8),
              loss_kd=dict(type='KDLoss', source=source))


def test_what_is_registered_for_a_time_is_forgotten():
    model = TinyPose(4)
    inside = type(host_of(model)).__name__, find_head_spec(model.head)
    with temporary_registrations():
        register_head('HeatmapHead', classes='other')
        register_host(type('Other', (Host, ), {}))
        assert type(host_of(model)).__name__ == 'Other'
        assert find_head_spec(model.head).classes == 'other'
    assert inside == (
        type(host_of(model)).__name__, find_head_spec(model.head))
    assert inside[0] == 'MMPoseHost'
