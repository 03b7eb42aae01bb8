"""What the log says of a distillation, and when it warns."""
import math

import pytest
import torch

from mmselfkd.hooks.report import (
    WINDOW,
    Monitor,
    class_agreement,
    linear_cka,
    render,
)


@pytest.fixture
def warnings(monkeypatch):
    texts = []

    class Logger:

        def warning(self, text):
            texts.append(text)

    monkeypatch.setattr(
        'mmselfkd.hooks.report.MMLogger.get_current_instance', Logger)
    return texts


def feed(values, task=1., weight=1.):
    monitor = Monitor(['loss_kd'])
    for i, value in enumerate(values):
        monitor.update({'decode.loss_ce': torch.tensor(task),
                        'loss': torch.tensor(task + value),
                        'decode.acc_seg': torch.tensor(50.),
                        'distill.loss_kd': torch.tensor(value)},
                       dict(loss_kd=weight), i)
    return monitor


def test_healthy_term_gives_no_warning(warnings):
    feed([1. / (i + 1) for i in range(60)])
    assert warnings == []


def test_constant_term(warnings):
    feed([0.5] * (WINDOW - 1))
    assert warnings == []
    feed([0.5] * 60)
    assert len(warnings) == 1 and 'has not changed' in warnings[0]


def test_term_that_is_off_is_not_watched(warnings):
    monitor = feed([0.] * 60, weight=0.)
    assert warnings == [] and monitor.active == dict(loss_kd=0)


def test_non_finite_term_is_named_each_time(warnings):
    feed([1., math.nan, 2., math.inf, 3.])
    assert len(warnings) == 2
    assert 'nan in iteration 2' in warnings[0]
    assert 'inf in iteration 4' in warnings[1]


def test_term_that_dwarfs_the_task(warnings):
    feed([999., 998.])
    assert warnings == []
    feed([1001., 1002.])
    assert len(warnings) == 1 and '1000 times the task loss' in warnings[0]


def test_summary_has_first_and_last(warnings):
    text = feed([float(i) for i in range(100)]).summary()
    assert 'distill.loss_kd' in text and '100' in text
    assert '9.5' in text and '89.5' in text  # means of 0..19 and 80..99


def test_class_agreement_by_hand():
    student = torch.tensor([[[[2., 0.]], [[1., 1.]]]])
    teacher = torch.tensor([[[[3., 9.]], [[1., 1.]]]])
    assert class_agreement(student, teacher) == 0.5


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


def test_table_is_plain_text():
    text = render('title', ('a', 'b'), [(1, 'x')])
    assert 'title' in text and '| 1 | x |' in text
    assert text.isascii()


def test_linear_cka_is_in_float32_under_autocast():
    s, t = 1000 * torch.rand(2, 3, 16, 16), torch.rand(2, 6, 16, 16)
    with torch.autocast('cpu', dtype=torch.float16):
        assert torch.equal(linear_cka(s, t), linear_cka(s, t).float())
        value = linear_cka(s, t)
    assert torch.equal(value, linear_cka(s, t))
