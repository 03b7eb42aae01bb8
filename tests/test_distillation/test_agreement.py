"""What is measured of student and teacher for the log."""
import pytest
import torch

from mmselfkd.distillation.agreement import (
    accuracy,
    class_agreement,
    linear_cka,
)


def test_class_agreement_by_hand():
    student = torch.tensor([[[[2., 0.]], [[1., 1.]]]])
    teacher = torch.tensor([[[[3., 9.]], [[1., 1.]]]])
    assert class_agreement(student, teacher) == 0.5


def test_accuracy_by_hand():
    """Nearest labels; neither ignored pixels nor background count."""
    teacher = torch.tensor([[[[2., 0., 0., 5.]], [[1., 1., 1., 0.]]]])
    label = torch.tensor([[[0, 0, 255, 1]]])
    assert accuracy(teacher, label, 255) == pytest.approx(1 / 3)
    label = torch.tensor([[[-1, 1, 0, 0]]])
    assert accuracy(teacher, label, 255) == pytest.approx(2 / 3)
    larger = label.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert accuracy(teacher, larger, 255) == pytest.approx(2 / 3)
    assert accuracy(teacher, torch.full((1, 1, 4), 255), 255) == 0


def test_linear_cka_against_the_gram_matrix_of_samples():
    """The definition by P x P matrices: HSIC(K, L) / sqrt(...)."""
    generator = torch.Generator().manual_seed(0)
    s = torch.rand(2, 3, 4, 5, generator=generator)
    t = torch.rand(2, 6, 4, 5, generator=generator)

    def gram(x):
        x = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).double()
        centre = torch.eye(len(x)).double() - 1 / len(x)
        return centre @ x @ x.T @ centre

    expected = (gram(s) * gram(t)).sum() / (gram(s).norm() * gram(t).norm())
    assert float(linear_cka(s, t)) == pytest.approx(float(expected), rel=1e-5)
    assert float(linear_cka(s, 3 * s + 1)) == pytest.approx(1.)
    assert float(linear_cka(s, torch.ones_like(t))) == 0


def test_linear_cka_is_in_float32_under_autocast():
    s, t = 1000 * torch.rand(2, 3, 16, 16), torch.rand(2, 6, 16, 16)
    with torch.autocast('cpu', dtype=torch.float16):
        assert torch.equal(linear_cka(s, t), linear_cka(s, t).float())
        value = linear_cka(s, t)
    assert torch.equal(value, linear_cka(s, t))
