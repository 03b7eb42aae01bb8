"""Distillation of the queries of a DETR in a real Runner."""
import pytest
import torch
from helpers import train
from test_distributed import assert_same, launch
from test_resume import stop_and_go
from tiny_detectors import OF_QUERIES

from mmselfkd import ConfigError
from mmselfkd.distillation import level_matching
from mmselfkd.teachers import ClassMap

LOSSES = OF_QUERIES


def hook(detectors, name, teacher=None, queries=None, losses=LOSSES):
    taught = detectors.teacher(teacher or name, 12)
    if queries:
        taught['config']['model']['num_queries'] = queries
    return dict(type='mmselfkd.DistillHook', teacher=taught, losses=losses)


@pytest.mark.parametrize('queries', [7, 20])
def test_classes_and_boxes_of_matched_queries(
        detectors, tmp_path, monkeypatch, queries):
    seen, match = [], level_matching.matched

    def look(student, teacher, is_sigmoid):
        found = match(student, teacher, is_sigmoid)
        seen.append((student.shape, teacher.shape, found[0].shape,
                     is_sigmoid))
        return found

    monkeypatch.setattr(level_matching, 'matched', look)
    _, logs = train(detectors.config(
        tmp_path, 'detr', hook(detectors, 'detr', queries=queries)))
    for entry in logs.entries:
        for key in LOSSES:
            assert entry[f'distill.{key}'] > 0
    # scores of 7 classes, and 4 numbers of the box
    assert set(seen) == {((2, 11, 12, 1), (2, 11, queries, 1),
                          (2, 11, min(queries, 12), 1), False)}


@pytest.mark.parametrize('losses', [
    LOSSES, dict(loss_box=LOSSES['loss_box'])], ids=['both', 'boxes'])
def test_a_class_map_leaves_the_boxes(
        detectors, tmp_path, monkeypatch, losses):
    """Queries are matched by the mapped classes for either loss."""
    raw, seen = [], []
    map_, match = ClassMap.__call__, level_matching.matched

    def look(student, teacher, is_sigmoid):
        seen.append((student, teacher))
        return match(student, teacher, is_sigmoid)

    def keep(self, scores, reading):
        raw.append(scores)
        return map_(self, scores, reading)

    monkeypatch.setattr(level_matching, 'matched', look)
    monkeypatch.setattr(ClassMap, '__call__', keep)
    taught = hook(detectors, 'deformable', losses=losses)
    names = tuple('abcdef')
    taught['teacher'].update(classes=dict(by='name'))
    taught['teacher']['config']['train_dataloader'] = dict(dataset=dict(
        metainfo=dict(classes=('c', 'x', 'a', 'y', 'z', 'd'))))
    cfg = detectors.config(tmp_path, 'deformable', taught)
    cfg.train_dataloader.dataset.metainfo = dict(classes=names)
    _, logs = train(cfg)
    for entry in logs.entries:
        for key in losses:
            assert entry[f'distill.{key}'] > 0
    assert {x.shape for pair in seen for x in pair} == {(2, 3 + 4, 12, 1)}
    # of the last batch: a, c and d of the teacher's classes
    assert torch.equal(seen[-1][1][:, :3], raw[-1][:, [2, 0, 5]])
    for ours, theirs in zip(seen[-len(losses)], seen[-1]):
        assert torch.equal(ours, theirs)


def test_queries_and_maps_are_not_compared(detectors, tmp_path):
    losses = dict(loss_kd=LOSSES['loss_kd'])
    for name, teacher, says in (
            ('detr', 'retinanet', '12 object queries of the student'),
            ('retinanet', 'detr', '12 object queries of the teacher')):
        with pytest.raises(ConfigError, match=(
                rf"DistillHook\.losses\.loss_kd\.source = 'logits': .*{says}.*"
                "'NFDLoss' with source='features'")):
            train(detectors.config(tmp_path, name, hook(
                detectors, name, teacher, losses=losses)))


@pytest.mark.parametrize('name', ['detr', 'deformable'])
def test_two_and_two_are_four(detectors, tmp_path, name):
    """By AdamW, as these are trained, to the last bit."""
    cfg = detectors.without_chance(detectors.config(
        tmp_path, name, hook(detectors, name), **{
            'train_cfg.max_iters': 4,
            'optim_wrapper.optimizer': dict(
                _delete_=True, type='AdamW', lr=1e-4)}))
    whole, _ = stop_and_go(cfg, tmp_path)
    assert len(whole['message_hub']['log_scalars'][
        'train/distill.loss_box'].data[0]) == 4


def test_two_ranks_are_one_of_twice_the_batch(tmp_path):
    """Each image is matched by itself."""
    one = launch('queries', tmp_path / 'one', 4, 1)
    two = launch('queries', tmp_path / 'two', 2, 2)
    assert_same(one['state_dict'], two['state_dict'], rtol=1e-4, atol=1e-6)
