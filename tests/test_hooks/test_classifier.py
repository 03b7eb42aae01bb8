"""A loss that passes features through the teacher's classifier."""
import pytest
import tiny_runs
from helpers import At, assert_equal, copied, teacher_model, train

from mmselfkd import ConfigError
from mmselfkd.losses import SRDLoss


def srd(**options):
    return dict(dict(type='mmselfkd.SRDHook', teacher=tiny_runs.teacher()),
                **options)


def test_it_gets_the_teachers_classifier_which_stays(tmp_path, monkeypatch):
    seen, forward = [], SRDLoss.forward

    def look(self, student, teacher, **options):
        seen.append((teacher.shape[1], options['classifier']))
        return forward(self, student, teacher, **options)

    monkeypatch.setattr(SRDLoss, 'forward', look)
    before = {}

    def start(runner):
        model = teacher_model(runner)
        before.update(model=model, state=copied(model.state_dict()))

    _, logs = train(tiny_runs.config(tmp_path, srd()), At(before_train=start))
    layer = before['model'].decode_head.conv_seg
    assert seen == [(layer.in_channels, layer)] * 3  # one is the rehearsal
    assert_equal(before['model'].state_dict(), before['state'])
    assert all(p.grad is None for p in before['model'].parameters())
    assert all(entry['distill.loss_srd'] > 0 for entry in logs.entries)


def test_the_classes_may_differ(tmp_path):
    hook = srd(teacher=tiny_runs.teacher(classes=3))
    _, logs = train(tiny_runs.config(tmp_path, hook, iters=1))
    assert logs.entries[0]['distill.loss_srd'] > 0


def test_other_features_are_refused(tmp_path):
    hook = srd(losses=dict(loss_srd=dict(source='backbone[3]')))
    with pytest.raises(ConfigError, match=r"loss_srd\.source = 'backbone\[3"):
        train(tiny_runs.config(tmp_path, hook))


def test_a_teacher_without_a_classifier_is_refused(detectors, tmp_path):
    cfg = detectors.config(
        tmp_path, 'fcos', srd(teacher=detectors.teacher('fcos')))
    with pytest.raises(ConfigError, match='classifier of teacher, which has'):
        train(cfg)
