"""A user's own module as a loss: what its signature and attributes say."""
import pytest
import torch
from torch import nn

from mmselfkd.distillation.plain_loss import as_distillation_loss
from mmselfkd.losses import KDLoss

MAPS = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)


def module(forward, **attributes):
    """A module with this forward."""
    return type('Own', (nn.Module, ), dict(
        forward=staticmethod(forward), **attributes))()


@pytest.mark.parametrize('forward, asks', [
    (lambda student, teacher: student.mean(), set()),
    (lambda student, teacher, label=None: student.mean(), {'label'}),
    (lambda student, teacher, label: student.mean(), {'label'}),
    (lambda student, teacher, *, weight, image: student.mean(),
     {'weight', 'image'}),
    (lambda student, teacher, temperature=1.: student.mean(), set()),
    (lambda student, teacher, **other: student.mean(),
     {'label', 'weight', 'image'})])
def test_the_signature_says_what_it_is_given(forward, asks):
    loss = as_distillation_loss(module(forward))
    assert asks == {name for name, wanted in (
        ('label', loss.needs_label), ('weight', loss.takes_weight),
        ('image', loss.needs_image)) if wanted}
    given = dict(label=1, weight=2, image=3)
    value = loss(*MAPS, **{name: given[name] for name in asks})
    assert torch.equal(value, MAPS[0].mean())


def test_what_it_is_given_arrives():
    seen = []

    def forward(student, teacher, label, weight=None):
        seen.append((student, teacher, label, weight))
        return student.sum()

    loss = as_distillation_loss(module(forward))
    loss(*MAPS, label='label', weight='weight')
    assert seen[0] == (*MAPS, 'label', 'weight')


@pytest.mark.parametrize('forward', [
    lambda student: student, lambda student, teacher, temperature: student,
    lambda *, student, teacher: student])
def test_a_forward_that_takes_no_two_maps(forward):
    with pytest.raises(TypeError, match=r'Own\.forward\(.*student'):
        as_distillation_loss(module(forward))


def test_what_its_attributes_declare():
    def forward(student, teacher):
        return student.mean()

    loss = as_distillation_loss(module(forward))
    assert (loss.channels, loss.sizes, loss.level_reduction) == (
        'adapt', 'equal', 'mean')
    loss = as_distillation_loss(module(
        forward, channels='any', sizes='any', level_reduction='sum',
        needs_positions=True))
    assert (loss.channels, loss.sizes, loss.level_reduction) == (
        'any', 'any', 'sum')
    assert loss.needs_positions


@pytest.mark.parametrize('name', ['channels', 'sizes'])
def test_an_attribute_of_another_kind_declares_nothing(name):
    """Many a module has a number of channels."""
    loss = as_distillation_loss(module(
        lambda student, teacher: student.mean(), **{name: 64}))
    assert (loss.channels, loss.sizes) == ('adapt', 'equal')
    assert not loss.declares_channels


def test_one_of_the_contract_stays_itself():
    loss = KDLoss()
    assert as_distillation_loss(loss) is loss


def test_its_parameters_are_the_losses():
    own = nn.Linear(1, 1)
    own.forward = lambda student, teacher: student.mean()
    assert list(as_distillation_loss(own).parameters()) == list(
        own.parameters())
