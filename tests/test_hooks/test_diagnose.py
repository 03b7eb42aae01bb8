"""The diagnosis in a run of the host."""
import json

import pytest
from helpers import assert_equal, load, train

SHARES = ('distill.share.', 'distill.cosine.')
METHODS = dict(
    SKDHook=['loss_pi', 'loss_pa', 'loss_ho'],
    FRSKDHook=['loss_at', 'loss_kd', 'teacher.loss_ce'],
    MixSKDHook=['loss_fea', 'loss_dis', 'loss_b', 'loss_f',
                'teacher.loss_branches', 'teacher.loss_aggregated'],
    TFDHook=['loss_inter', 'loss_intra'])


@pytest.mark.parametrize('name', METHODS)
def test_the_student_is_the_same(tiny, tmp_path, name):
    """Bit for bit, and its shares are logged where they are measured."""
    logs = {}
    for diagnose in (None, dict(interval=2)):
        hook = dict(type=f'mmselfkd.{name}', diagnose=diagnose)
        if name == 'SKDHook':
            hook['teacher'] = tiny.teacher()
        folder = tmp_path / str(diagnose)
        cfg = tiny.config(folder, hook, iters=3, val_dataloader=None,
                          val_evaluator=None, val_cfg=None)
        cfg.log_level = 'INFO'
        runner, logs[folder] = train(cfg)
    first, second = (load(folder, 3) for folder in logs)
    for part in ('state_dict', 'optimizer'):
        assert_equal(first[part], second[part])
    for part in ('modules', 'discriminators', 'optimizer'):
        assert_equal(first['mmselfkd'][part], second['mmselfkd'][part])
    plain, diagnosed = (log.entries for log in logs.values())
    assert plain == diagnosed  # the loss too: no share is added to it

    scalars = second['message_hub']['log_scalars']
    found = {key.removeprefix('train/'): buffer.data[0]
             for key, buffer in scalars.items()
             if key.startswith(('train/distill.share.',
                                'train/distill.cosine.'))}
    assert set(found) == {
        prefix + loss for loss in METHODS[name] for prefix in SHARES}
    for key, values in found.items():
        assert len(values) <= 2, key  # of three iterations
        least = 0 if 'share' in key else -1
        assert all(least <= value <= 1 for value in values), key
    lines = next(folder.glob('*/vis_data/scalars.json')).read_text()
    last = json.loads(lines.splitlines()[-1])
    assert found.keys() <= last.keys()
    text = next(folder.glob('*/*.log')).read_text()
    assert 'Diagnosis, from first to last' in text


def test_a_detector(detectors, tmp_path):
    hook = dict(type='mmselfkd.NFDHook', diagnose=dict(interval=1),
                teacher=detectors.teacher('retinanet', 16))
    _, logs = train(detectors.config(tmp_path, 'retinanet', hook))
    scalars = load(tmp_path, 2)['message_hub']['log_scalars']
    shares, _ = scalars['train/distill.share.loss_nfd'].data
    assert len(shares) == 2 and all(0 < share < 1 for share in shares)
    assert 'train/distill.agreement_right' not in scalars
