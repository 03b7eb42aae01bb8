"""Each file of examples/ runs as its reader runs it, and is in effect."""
import math
import re
import subprocess
import sys

import mmseg.models  # noqa: F401  registers what the toy configs name
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_stock, load
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmselfkd import DistillHook
from mmselfkd.distillation import ENTRY, DistillationRun
from mmselfkd.hosts import host_of

STUDENT = 'configs/toy/fpn_r18-w8_1xb8-1k_toy-64x64.py'


@pytest.fixture
def run(root, tmp_path):
    """Runs an example; gives each logged key's first and last value, and
    what was saved."""

    def run_example(name):
        done = subprocess.run(
            [sys.executable, str(root / 'examples' / f'{name}.py')],
            cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        log = {key: (float(first), float(last)) for key, first, last in
               re.findall(r'^train/(\S+) +(\S+) +(\S+)$', done.stdout, re.M)}
        for i in range(2):  # what is distilled is part of what is minimised
            parts = [v[i] for k, v in log.items() if '.' in k and 'loss' in k]
            assert log['loss'][i] == pytest.approx(sum(parts), abs=1e-3)
        return log, load(tmp_path / 'work_dirs' / name, 10)

    return run_example


class Student(nn.Module):
    """A user's own network in his own training loop."""

    def __init__(self, channels=4):
        super().__init__()
        self.backbone = nn.Conv2d(3, channels, 3, stride=4, padding=1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=self.backbone(inputs).mean() * 0)


def start(student, inputs, teacher, **losses):
    run = DistillationRun(
        student, DistillHook(teacher, losses).plan, inputs, None)
    run.attach()
    run.start()
    run.begin_iteration(0)
    return run


def test_own_loss(run, root):
    """Both are in the log; the variance is trained, and saved apart."""
    log, saved = run('own_loss')
    assert log['distill.loss_vid'][0] > 0
    first, last = log['distill.loss_cosh']
    assert 0 < last < 0.9 * first
    assert_stock(saved, Config.fromfile(root / STUDENT).model)
    own = saved[ENTRY]['modules']
    rho = own['loss_vid.losses.0.rho']
    assert rho.shape == (32, )  # the teacher's channels
    assert not torch.allclose(F.softplus(rho), torch.tensor(5.), atol=1e-4)
    assert 'loss_vid.adapters.0.weight' in own


def test_values_of_the_own_losses(outside):
    names = outside('examples/own_loss.py')
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    loss = names['VIDLoss'](start=2.)
    loss.build(student, teacher, None)
    error = (student - teacher)**2 / 4 + math.log(2) / 2
    assert loss(student, teacher).item() == pytest.approx(
        error.mean().item(), rel=1e-4)
    weight = torch.zeros(2, 1, 4, 5)
    weight[0, 0, 0, :2] = torch.tensor([1., 3.])
    expected = (error[0, :, 0, 0] + 3 * error[0, :, 0, 1]).mean() / 4
    assert loss(student, teacher, weight=weight).item() == pytest.approx(
        expected.item(), rel=1e-4)
    assert names['LogCoshLoss']()(student, teacher).item() == pytest.approx(
        (student - teacher).cosh().log().mean().item())


def test_own_teacher(run, root):
    log, saved = run('own_teacher')
    assert log['distill.loss_nfd'][0] > 0
    assert_stock(saved, Config.fromfile(root / STUDENT).model)
    # 96 channels of the transformer
    assert saved[ENTRY]['modules']['loss_nfd.adapters.0.weight'].shape == (
        96, 16, 1, 1)


def test_what_the_own_teacher_sees_and_says(outside, tmp_path):
    """Against a plain call of the transformer."""
    names = outside('examples/own_teacher.py')
    vit = names['ViT'](7).eval()
    torch.save(vit.state_dict(), tmp_path / 'vit.pth')
    student = Student(channels=96)
    images = torch.rand(2, 3, 64, 48) * 255  # BGR
    run = start(
        student, images,
        dict(type='ViTTeacher', checkpoint=str(tmp_path / 'vit.pth')),
        loss_mse=dict(type=nn.MSELoss, source=dict(
            student='backbone', teacher='blocks')))
    value = student(images, mode='loss')['distill.loss_mse']

    tokens = []
    vit.blocks.register_forward_hook(lambda m, args, out: tokens.append(out))
    with torch.no_grad():
        vit(images.flip(1) / 127.5 - 1)
    grid = tokens[0][:, 1:].transpose(1, 2).reshape(2, 96, 8, 6)
    ours = student.backbone(images)
    theirs = F.interpolate(grid, ours.shape[2:], mode='bilinear')
    assert value.item() == pytest.approx(
        F.mse_loss(ours, theirs).item(), rel=1e-4)
    value.backward()
    gradient, = torch.autograd.grad(
        F.mse_loss(ours, theirs), student.backbone.weight)
    assert gradient.any()
    assert torch.allclose(student.backbone.weight.grad, gradient, rtol=1e-3)

    seen = []  # of images whose sides are no multiples of 8
    run.teachers['teacher'].model.register_forward_pre_hook(
        lambda m, args: seen.append(args[0]))
    images = images[:, :, :60, :44]
    student(images, mode='loss')
    assert torch.allclose(
        seen[0], F.pad(images.flip(1) / 127.5 - 1, (0, 4, 0, 4)), atol=1e-5)
    run.close()


def test_own_head(run):
    log, saved = run('own_head')
    assert log['distill.loss_kd'][0] > 0
    assert log['distill.loss_nfd'][0] > 0
    assert 0 <= log['distill.agreement'][0] <= 1
    keys = saved['state_dict'].keys()
    assert 'decode_head.classifier.weight' in keys
    assert not any('conv_seg' in key or ENTRY in key for key in keys)


def test_where_the_own_head_is_looked_at(outside):
    outside('examples/own_head.py')
    model = nn.Module()
    model.decode_head = MODELS.build(dict(
        type='mmseg.SumHead', _scope_='mmseg', in_channels=[4, 4],
        in_index=[0, 1], channels=8, num_classes=3,
        norm_cfg=dict(type='BN')))
    logits, features = (
        host_of(model).place(model, source, 'source')
        for source in ('logits', 'features'))
    layer = model.decode_head.classifier
    assert logits.modules == features.modules == [layer]
    assert logits.argument is None and features.argument == 0
    assert (logits.reading.kind, logits.reading.activation) == (
        'classes', 'softmax')
