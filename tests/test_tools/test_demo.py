import sys

import demo


def test_demo(monkeypatch, tmp_path, capfd):
    """The three runs, the table, the picture; then nothing left to train."""
    monkeypatch.setattr(sys, 'argv', [
        'demo.py', '--work-dir', str(tmp_path), '--cfg-options',
        'train_cfg.max_iters=2', 'train_cfg.val_interval=2',
        'default_hooks.logger.interval=1', 'train_dataloader.batch_size=2',
        'train_dataloader.dataset.length=4', 'val_dataloader.dataset.length=4'
    ])
    for runs in (3, 0):
        demo.main()
        out = capfd.readouterr().out
        assert out.count('=== ') == runs
    *_, header, teacher, plain, distilled, _, checkpoint, picture = (
        out.splitlines())
    assert header.split() == ['mIoU', 'parameters', 'training', 'time']
    assert [row.split()[0] for row in (teacher, plain, distilled)
            ] == ['teacher', 'plain', 'distilled']
    assert plain.split()[2] == distilled.split()[2] != teacher.split()[2]
    assert checkpoint.endswith(str(tmp_path / 'distilled' / 'iter_2.pth'))
    assert picture == f'Picture: {tmp_path / "demo.png"}'
    assert (tmp_path / 'demo.png').stat().st_size > 10_000
