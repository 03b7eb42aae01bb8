import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmselfkd.losses import SRDLoss, srd_loss


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def frozen(channels=3, classes=4):
    torch.manual_seed(0)
    return nn.Conv2d(channels, classes, 1).double().requires_grad_(False)


def scores(row, classifier):
    """Of the features of a position, by loops."""
    weight = classifier.weight.flatten(1).tolist()
    return [sum(w * v for w, v in zip(ws, row)) + b
            for ws, b in zip(weight, classifier.bias.tolist())]


def naive(student, teacher, classifier, statistics=1.0, weight=None):
    total = 0.0
    for n in range(len(student)):
        w = [1.0] * student[n, 0].numel() if weight is None else (
            weight[n].flatten().tolist())
        rows = [x[n].flatten(1).T.tolist() for x in (student, teacher)]
        squares = [
            sum((a - b)**2 for a, b in zip(
                scores(s, classifier), scores(t, classifier)))
            / classifier.out_channels for s, t in zip(*rows)]
        total += sum(u * v for u, v in zip(w, squares)) / sum(w)
        seen = [p for p, u in enumerate(w) if u > 0]
        means = [[sum(side[p][c] for p in seen) / len(seen)
                  for c in range(student.shape[1])] for side in rows]
        total += statistics * sum(
            (a - b)**2 for a, b in zip(*means)) / student.shape[1]
    return total / len(student)


def test_hand_value():
    # scores 2 and 6 against 2 and 2, means 2 against 1
    student = torch.tensor([1., 3.]).view(1, 1, 1, 2)
    teacher = torch.ones(1, 1, 1, 2)
    for statistics, expected in ((0.0, 8.0), (1.0, 9.0), (10.0, 18.0)):
        assert srd_loss(
            student, teacher, classifier=lambda x: 2 * x,
            statistics=statistics).item() == expected


@pytest.mark.parametrize('statistics', [0.0, 1.0, 10.0])
def test_equation(statistics):
    student, teacher = maps(2, 3, 4, 5)
    classifier = frozen()
    value = srd_loss(
        student, teacher, classifier=classifier, statistics=statistics)
    assert value.item() == pytest.approx(
        naive(student, teacher, classifier, statistics), rel=1e-9)
    weight = maps(2, 1, 4, 5, seed=1)[0].abs()
    weight[0, 0, 1] = 0
    value = srd_loss(student, teacher, classifier=classifier, weight=weight,
                     statistics=statistics)
    assert value.item() == pytest.approx(
        naive(student, teacher, classifier, statistics, weight), rel=1e-9)


def test_what_the_classifier_does_not_see_has_no_effect():
    """Directions that change no score, on the first term alone."""
    student, teacher = maps(2, 5, 4, 5)
    classifier = frozen(5, 3)
    _, _, directions = torch.linalg.svd(classifier.weight.flatten(1))
    unseen = directions[3:].sum(0).view(1, 5, 1, 1)
    options = dict(classifier=classifier, statistics=0.0)
    torch.testing.assert_close(
        srd_loss(student + unseen, teacher, **options),
        srd_loss(student, teacher, **options))
    assert srd_loss(student + unseen, teacher, classifier=classifier) != (
        srd_loss(student, teacher, classifier=classifier))


def test_same_features_are_the_minimum():
    _, teacher = maps(2, 3, 4, 5)
    same = teacher.clone().requires_grad_()
    value = srd_loss(same, teacher, classifier=frozen())
    value.backward()
    assert value == 0 and same.grad.abs().max() == 0


def built():
    loss = SRDLoss()
    loss.build(torch.zeros(2, 5, 1, 1), torch.zeros(2, 3, 1, 1), None)
    return loss.double()


def pair():
    student, teacher = maps(2, 5, 4, 5)
    return student, teacher[:, :3]


def test_module_is_the_function_behind_the_connector():
    student, teacher = pair()
    loss, classifier = built(), frozen()
    mapped = F.conv2d(student, loss.connector.weight)
    mapped = F.batch_norm(mapped, None, None, training=True).relu()
    torch.testing.assert_close(
        loss(student, teacher, classifier=classifier),
        srd_loss(mapped, teacher, classifier=classifier))
    assert SRDLoss().statistics == 1.0


def test_gradient_for_student_and_connector_only():
    student, teacher = pair()
    loss, classifier = built(), frozen()
    student.requires_grad_(), teacher.requires_grad_()
    loss(student, teacher, classifier=classifier).backward()
    assert teacher.grad is None and student.grad.abs().max() > 0
    assert all(p.grad.abs().max() > 0 for p in loss.parameters())
    assert classifier.weight.grad is None
    assert 'classifier' not in ' '.join(loss.state_dict())


def test_padding_takes_no_part():
    student, teacher = pair()
    weight = torch.ones(2, 1, 4, 5)
    weight[:, :, 2:] = 0
    values = []
    for padding in (0.0, 7.0, -50.0):
        s, t = student.clone(), teacher.clone()
        s[:, :, 2:], t[:, :, 2:] = padding, 2 * padding
        s.requires_grad_()
        torch.manual_seed(0)
        value = built()(s, t, weight=weight, classifier=frozen())
        value.backward()
        assert s.grad[:, :, 2:].abs().max() == 0
        values.append(value)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])
    assert built()(student, teacher, classifier=frozen(),
                   weight=torch.zeros(2, 1, 4, 5)) == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_float32(dtype):
    loss, classifier = built().float(), frozen().float()
    student, teacher = (x.to(dtype) for x in pair())
    student.requires_grad_()
    expected = loss(
        student.float(), teacher.float(), classifier=classifier)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss(student, teacher, classifier=classifier)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
    value.backward()
    assert student.grad.dtype == dtype and student.grad.isfinite().all()


def test_bad_arguments():
    student, teacher = pair()
    with pytest.raises(ValueError, match='statistics'):
        SRDLoss(statistics=-1.0)
    with pytest.raises(ValueError, match='same N, H and W'):
        SRDLoss()(student, teacher[:, :, :2], classifier=frozen())
    with pytest.raises(ValueError, match='weight must have shape'):
        SRDLoss()(student, teacher, classifier=frozen(),
                  weight=torch.ones(2, 4, 5))
