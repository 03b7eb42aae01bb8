"""A user's own losses and teachers in a run: what works, what is refused."""
import pytest
import torch
from torch import nn

from mmselfkd import ConfigError, DistillHook
from mmselfkd.distillation import DistillationRun
from mmselfkd.hosts import InputFormat
from mmselfkd.losses import DistillationLoss
from mmselfkd.teachers import ModelTeacher


class Student(nn.Module):

    def __init__(self, channels=4):
        super().__init__()
        self.backbone = nn.Conv2d(3, channels, 3, stride=4, padding=1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.backbone(inputs)
        return dict(loss=features.mean()) if mode == 'loss' else features


def start(loss, teacher=None, source='backbone'):
    """A run of one loss, after its rehearsal."""
    teacher = teacher or dict(type=ModelTeacher, model=Student(6))
    hook = DistillHook(teacher, dict(loss_own=dict(
        loss if isinstance(loss, dict) else dict(type=loss), source=source)))
    return DistillationRun(
        Student(), hook.plan, torch.rand(2, 3, 16, 16), None)


class Base(DistillationLoss):

    def forward(self, student, teacher):
        return (student - teacher).square().mean()


class NotScalar(Base):

    def forward(self, student, teacher):
        return (student - teacher).square()


class NoTensor(Base):

    def forward(self, student, teacher):
        return dict(loss=1.)


class Misspelt(Base):
    channels = 'class'


class Undeclared(Base):
    needs_label = True  # forward does not take it


class Empty(DistillationLoss):
    pass


class Shapes(Base):

    def build(self, student, teacher, image):
        torch.zeros(2) @ torch.zeros(3)


class NoInit(Base):

    def __init__(self):
        self.power = 2


class NoInitPlain(nn.Module):

    def __init__(self):
        self.power = 2

    def forward(self, student, teacher):
        return (student - teacher).mean()**2


class NoInitParameter(Base):

    def __init__(self):
        self.scale = nn.Parameter(torch.ones(1))


class Builds(nn.Module):
    """Not a DistillationLoss, of which the run would call ``build``."""

    def build(self, student, teacher, image):
        self.conv = nn.Conv2d(student.shape[1], teacher.shape[1], 1)

    def forward(self, student, teacher):
        return (self.conv(student) - teacher).square().mean()


def no_module():
    return 3


@pytest.mark.parametrize('loss, says', [
    (NoInit, r'NoInit.__init__ does not call super\(\).__init__\(\)'),
    (NoInitPlain, r'NoInitPlain.__init__ does not call super\(\)'),
    (NoInitParameter, r'cannot assign parameters before .*__init__\(\)'),
    (Builds, 'Builds.build would never be called.*DistillationLoss'),
    (nn.Identity, r'Identity.forward\(.*cannot be called with the two maps'),
    (no_module, 'a int is no loss; derive it from .*DistillationLoss'),
    (NotScalar, r'NotScalar returned a tensor of shape \(2, 6, 4, 4\)'),
    (NoTensor, 'NoTensor returned a dict'),
    (Misspelt, "Misspelt.channels = 'class'; nearest: 'classes'"),
    (Undeclared, "unexpected keyword argument 'label'"),
    (Empty, 'NotImplementedError: .*forward'),
    (Shapes, 'RuntimeError: '),
])
def test_what_a_loss_does_wrong(loss, says):
    with pytest.raises(ConfigError, match=rf'losses\.loss_own.*{says}'):
        start(loss)


class Counts(nn.Module):
    """``channels`` is a number, as in many a module."""

    def __init__(self):
        super().__init__()
        self.channels = 6

    def forward(self, student, teacher):
        assert student.shape == teacher.shape
        return (student - teacher).square().mean()


def test_a_number_of_channels_is_no_declaration():
    run = start(Counts)
    assert run.terms[0].adapters[0].weight.shape == (6, 4, 1, 1)


class Net(nn.Module):
    """A network that knows no modes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=4, padding=1)

    def forward(self, images):
        return self.conv(images)


def test_a_teacher_without_modes_gets_the_images():
    net = Net()
    run = start(Base, dict(type=ModelTeacher, model=net), dict(
        student='backbone', teacher='conv'))
    assert run.teachers['teacher'].key == 'DistillHook.teacher'
    with pytest.raises(ConfigError, match="no module 'cnv'; nearest: 'conv'"):
        start(Base, dict(type=ModelTeacher, model=net), dict(
            student='backbone', teacher='cnv'))


class Plain(ModelTeacher):
    """Takes no ``key``."""

    def __init__(self):
        super().__init__(Net(), channels=[0])


def test_the_key_of_a_teacher_that_does_not_ask_for_it():
    with pytest.raises(ConfigError, match=r'^DistillHook\.teacher\.channels'):
        start(Base, dict(type=Plain), dict(
            student='backbone', teacher='conv'))


def test_one_statistic_alone():
    mean, std = InputFormat(mean=[1., 2., 3.]).statistics()
    assert mean.flatten().tolist() == [1., 2., 3.]
    assert std.flatten().tolist() == [1.]


class Unborn(ModelTeacher):

    def __init__(self):
        self.model = Net()


def test_a_teacher_that_does_not_call_its_base():
    with pytest.raises(ConfigError, match=(
            r'^DistillHook\.teacher: Unborn.__init__ does not call super')):
        start(Base, dict(type=Unborn))


class OwnBuild(nn.Module):
    """Its ``build`` is its own business."""

    def build(self):
        return 2

    def forward(self, student, teacher):
        return (student - teacher).mean()**self.build()


def test_a_build_that_is_not_the_runs():
    assert start(OwnBuild).terms


def test_what_is_no_teacher():
    with pytest.raises(ConfigError, match=(
            r'^DistillHook\.teacher: a Net is no teacher')):
        start(Base, dict(type=Net))
