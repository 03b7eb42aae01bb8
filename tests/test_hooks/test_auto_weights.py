"""Weights that follow from the gradients, in runs of the hosts."""
import json

import pytest
import tiny_runs
from helpers import (
    KD,
    NFD,
    NO_DROPOUT,
    assert_equal,
    assert_stock,
    interrupt,
    keep_order,
    load,
    train,
)

from mmselfkd.distillation import auto_weight

AUTO = dict(loss_weight='auto', share=0.25)
KEY = 'distill.weight.loss_nfd'


def hook(**options):
    return dict(dict(
        type='mmselfkd.NFDHook', teacher=tiny_runs.teacher(),
        losses=dict(loss_nfd=AUTO)), **options)


def weights(work_dir, iteration=2, key=KEY):
    """What was logged."""
    scalars = load(work_dir, iteration)['message_hub']['log_scalars']
    return scalars[f'train/{key}'].data[0].tolist()


def test_it_is_logged_and_the_share_is_there(tmp_path):
    """In the files of the host, beside a sum that it is no part of."""
    cfg = tiny_runs.config(tmp_path, hook(diagnose=dict(interval=1)))
    cfg.log_level = 'INFO'
    _, logs = train(cfg)
    lines = next(tmp_path.glob('*/vis_data/scalars.json')).read_text()
    first, last = map(json.loads, lines.splitlines()[:2])
    assert first[KEY] == pytest.approx(weights(tmp_path)[0])
    assert first['distill.share.loss_nfd'] == pytest.approx(0.25, rel=1e-4)
    for entry in logs.entries:
        assert KEY not in entry
        assert entry['loss'] == pytest.approx(sum(
            value for key, value in entry.items()
            if 'loss' in key and key != 'loss'))
    text = next(tmp_path.glob('*/*.log')).read_text()
    for part in ('auto, share 0.25', f'{KEY}: ', "loss_weight='auto'"):
        assert part in text
    assert_stock(load(tmp_path, 2), cfg.model)


def test_two_and_two_are_four(tmp_path, monkeypatch):
    """Also where a mean of what was before is part of the weight."""
    monkeypatch.setattr(auto_weight, 'INTERVAL', 1)
    saved = {}
    for name in ('whole', 'resumed'):
        cfg = tiny_runs.config(tmp_path / name, hook(), iters=4, **NO_DROPOUT)
        keep_order(cfg)
        cfg.train_dataloader.batch_size = 8
        if name == 'resumed':
            interrupt(tiny_runs.build(cfg), 2)
            cfg.resume = True
        tiny_runs.build(cfg).train()
        saved[name] = load(tmp_path / name, 4)
    for entry in ('state_dict', 'optimizer', 'mmselfkd'):
        assert_equal(*(one[entry] for one in saved.values()), entry)
    assert_equal(*(weights(tmp_path / name, 4) for name in saved))
    state = saved['whole']['mmselfkd']['weights']['weight of loss_nfd']
    assert state['norms'][''][1] == 4


def test_a_weight_that_is_gone_or_new_on_resume(tmp_path, capsys):
    """The log says so, and shows no weight that there is not."""
    before = None
    for iters, losses, says in (
            (1, AUTO, None),
            (2, dict(loss_weight=2.), 'is no longer part of the run'),
            (3, AUTO, 'is new')):
        cfg = tiny_runs.config(tmp_path / str(iters), hook(
            losses=dict(loss_nfd=losses)), iters=iters)
        cfg.update(resume=iters > 1, load_from=before, log_level='INFO')
        train(cfg)
        before = str(tmp_path / str(iters) / f'iter_{iters}.pth')
        lines = [line for line in capsys.readouterr().out.splitlines()
                 if 'distillation resumed' in line]
        assert [f'weight of loss_nfd: {says}' in line for line in lines] == (
            [True] if says else [])
        scalars = load(tmp_path / str(iters), iters)['message_hub'][
            'log_scalars']
        assert (f'train/{KEY}' in scalars) == (losses is AUTO)


def test_accumulated_gradients_have_the_same_share(tmp_path):
    """Each batch is divided alike."""
    for count in (1, 2):
        train(tiny_runs.config(
            tmp_path / str(count), hook(),
            **{'optim_wrapper.accumulative_counts': count}))
    one, two = (weights(tmp_path / str(count)) for count in (1, 2))
    assert one[0] == two[0]


def test_images_without_labels_have_the_same_weight(tmp_path):
    """Even where the labelled ones have none in the loss."""
    found = []
    for share in (0.25, 1.):
        train(tiny_runs.config(tmp_path, hook(unlabelled=dict(
            share=share, dataloader=dict(
                batch_size=2, num_workers=0, dataset=dict(
                    type='mmselfkd.ToySegDataset', size=32, length=4,
                    split='test', pipeline=[
                        dict(type='LoadImageFromFile'),
                        dict(type='PackSegInputs')]))))))
        found.append(weights(tmp_path)[0])
    assert found[0] == found[1] > 0


@pytest.mark.parametrize('name, loss', [
    ('FRSKDHook', 'loss_at'), ('TFDHook', 'loss_inter'),
    ('MixSKDHook', 'loss_fea')])
def test_without_a_teacher(tmp_path, name, loss):
    cfg = tiny_runs.config(tmp_path, dict(
        type=f'mmselfkd.{name}', losses={loss: dict(AUTO, schedule=None)},
        diagnose=dict(interval=1)))
    train(cfg)
    shares = weights(tmp_path, key=f'distill.share.{loss}')
    assert shares[0] == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize('student', ['retinanet', 'faster'])
def test_a_detector(detectors, tmp_path, student):
    """Several levels; two losses."""
    cfg = detectors.config(tmp_path, student, dict(
        type='mmselfkd.DistillHook', diagnose=dict(interval=1),
        teacher=detectors.teacher(student, 16), losses=dict(
            loss_nfd=dict(NFD, **AUTO), loss_kd=dict(KD, **AUTO))))
    train(cfg)
    for name in ('loss_nfd', 'loss_kd'):
        shares = weights(tmp_path, key=f'distill.share.{name}')
        assert shares[0] == pytest.approx(0.25, rel=1e-3)
