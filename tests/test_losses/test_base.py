"""The contract of a loss: what every one of them declares and keeps."""
import inspect

import pytest
import torch
from every_loss import CLASSES, extra, made

from mmselfkd import losses
from mmselfkd.losses import KDLoss, MixSKDLogitLoss, kd_loss
from mmselfkd.losses.base import DistillationLoss

FUNCTIONS = [getattr(losses, name) for name in losses.__all__
             if not inspect.isclass(getattr(losses, name))]
every_class = pytest.mark.parametrize('cls', CLASSES)


def keywords(function):
    """What follows the two maps; all of it by keyword alone."""
    first, second, *others = inspect.signature(function).parameters.values()
    assert (first.name, second.name) == ('student', 'teacher')
    assert all(one.kind is one.KEYWORD_ONLY for one in others)
    return [one.name for one in others]


@every_class
def test_forward_takes_what_is_declared(cls):
    loss = cls()
    if 'ignore_index' in inspect.signature(cls).parameters:
        loss = cls(ignore_index='head')  # some look at no label otherwise
    assert isinstance(loss, DistillationLoss)
    taken = keywords(loss.forward)
    assert set(taken) <= {
        'label', 'weight', 'image', 'classifier', 'objects', 'regions'}
    assert ('weight' in taken) is loss.takes_weight
    assert ('image' in taken) is loss.needs_image
    assert ('classifier' in taken) is loss.needs_classifier
    # an option of the loss may be what needs the labels
    assert 'label' in taken or not loss.needs_label


@pytest.mark.parametrize('function', FUNCTIONS)
def test_functions_share_an_order(function):
    parameters = inspect.signature(function).parameters
    taken = [name for name in keywords(function)  # that may be left out
             if parameters[name].default is not inspect.Parameter.empty]
    shared = [name for name in ('label', 'weight') if name in taken]
    assert taken[:len(shared)] == shared
    assert 'sync_ranks' not in taken[:-1]


@every_class
def test_channels_and_sizes_are_as_declared(cls):
    loss = made(cls)
    student = torch.rand(2, 4, 6, 8)
    for teacher, is_legal in (
            (torch.rand(2, 4, 6, 8), True),
            (torch.rand(2, 6, 6, 8), loss.channels == 'any'),
            (torch.rand(2, 4, 3, 4), loss.sizes == 'any')):
        if is_legal:
            assert made(cls)(student, teacher, **extra(
                loss, student)).shape == ()
        else:
            with pytest.raises(ValueError, match='the same'):
                loss(student, teacher, **extra(loss, student))


def test_levels_are_paired_one_to_one():
    levels = [torch.zeros(1, 2, 8, 8), torch.zeros(1, 4, 4, 4)]
    others = [torch.zeros(1, 3, 8, 8), torch.zeros(1, 5, 4, 4)]
    pairs = DistillationLoss().pair_levels(levels, others)
    assert [(a is levels[i], b is others[i])
            for i, (a, b) in enumerate(pairs)] == [(True, True)] * 2
    with pytest.raises(ValueError) as error:
        DistillationLoss().pair_levels(levels, others[1:])
    assert ('2 levels of the student ((1, 2, 8, 8), (1, 4, 4, 4)) but 1 of '
            'the teacher ((1, 5, 4, 4))') in str(error.value)
    with pytest.raises(ValueError, match='no level'):
        DistillationLoss().pair_levels([], [])


with_labels = pytest.mark.parametrize('cls', [KDLoss, MixSKDLogitLoss])


@with_labels
def test_ignore_index_of_the_head(cls):
    student, teacher = torch.randn(2, 2, 3, 4, 5).double()
    label = torch.randint(3, (2, 4, 5)).masked_fill(
        torch.rand(2, 4, 5) < 0.3, 255)

    def value(set_by_run=None, **options):
        loss = cls(**options)
        if set_by_run and loss.ignore_index == 'head':
            loss.ignore_index, = set_by_run
        return loss(student, teacher, label=label)

    # without a run it is 255; an explicit value wins over the head's
    explicit = {index: value(ignore_index=index) for index in (255, 0, None)}
    assert len({x.item() for x in explicit.values()}) == 3
    assert value() == explicit[255]
    for index in (255, 0, None):
        assert value([index]) == explicit[index]
        assert value([2], ignore_index=index) == explicit[index]


@with_labels
def test_activation_of_the_head(cls):
    student, teacher = torch.randn(2, 2, 3, 4, 5).double()
    loss = cls()
    assert loss.activation is None
    value = loss(student, teacher)
    loss.activation = 'sigmoid'
    other = loss(student, teacher)
    assert value == cls(activation='softmax')(student, teacher) != other
    assert other == cls(activation='sigmoid')(student, teacher)
    with pytest.raises(ValueError, match='activation must be one of'):
        cls(activation='tanh')


def test_mixskd_by_sigmoid_is_both_directions():
    student, teacher = torch.randn(2, 2, 3, 4, 5).double()
    options = dict(temperature=3.0, activation='sigmoid')
    torch.testing.assert_close(
        MixSKDLogitLoss(activation='sigmoid')(student, teacher),
        kd_loss(student, teacher, **options)
        + kd_loss(teacher, student, **options))
