import json
import sys

import demo
import pytest


@pytest.mark.parametrize('task, metric, options', [
    ('seg', 'mIoU', []),
    ('det', 'mAP', ['model.test_cfg.score_thr=0']),
])
def test_demo(monkeypatch, tmp_path, capfd, task, metric, options):
    """The three runs, the table, the picture; then nothing left to train."""
    monkeypatch.setattr(sys, 'argv', [
        'demo.py', '--task', task, '--work-dir', str(tmp_path),
        '--cfg-options', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2',
        'default_hooks.logger.interval=1', 'train_dataloader.batch_size=2',
        'train_dataloader.dataset.length=4', 'val_dataloader.dataset.length=4',
        *options
    ])
    for runs in (3, 0):
        demo.main()
        out = capfd.readouterr().out
        assert out.count('=== ') == runs
    *_, header, teacher, plain, distilled, _, checkpoint, picture = (
        out.splitlines())
    assert header.split() == [metric, 'parameters', 'training', 'time']
    assert [row.split()[0] for row in (teacher, plain, distilled)
            ] == ['teacher', 'plain', 'distilled']
    assert plain.split()[2] == distilled.split()[2] != teacher.split()[2]
    assert checkpoint.endswith(str(tmp_path / 'distilled' / 'iter_2.pth'))
    assert picture == f'Picture: {tmp_path / "demo.png"}'
    assert (tmp_path / 'demo.png').stat().st_size > 10_000


def test_stopped_in_the_last_validation(monkeypatch, tmp_path):
    """A resumed run would not repeat it: train from the beginning."""
    (tmp_path / 'iter_1000.pth').touch()
    last = tmp_path / 'last_checkpoint'
    last.touch()

    def run(command, **kwargs):
        assert '--resume' in command and not last.exists()
        log = tmp_path / '1' / 'vis_data' / 'scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text('\n'.join(
            map(json.dumps, (dict(loss=1., time=0.5, step=50),
                             dict(mIoU=33., step=1000)))))

    monkeypatch.setattr(demo.subprocess, 'run', run)
    result = demo.train('fpn_r18-w8_1xb8-1k_toy-64x64.py', tmp_path, [])
    assert result['scores'] == dict(mIoU='33.00')
    assert result['seconds'] == 500
