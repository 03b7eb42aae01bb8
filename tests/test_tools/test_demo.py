import subprocess
import sys


def test_demo(root, tmp_path):
    """The three runs, the table, the picture; then nothing left to train."""
    command = [
        sys.executable, root / 'tools' / 'demo.py', '--work-dir', tmp_path,
        '--cfg-options', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2',
        'default_hooks.logger.interval=1', 'train_dataloader.batch_size=2',
        'train_dataloader.dataset.length=4', 'val_dataloader.dataset.length=4'
    ]
    for runs in (3, 0):
        demo = subprocess.run([str(part) for part in command],
                              check=True,
                              capture_output=True,
                              text=True)
        assert demo.stdout.count('=== ') == runs
    *_, header, teacher, plain, distilled, _, checkpoint, picture = (
        demo.stdout.splitlines())
    assert header.split() == ['mIoU', 'parameters', 'training', 'time']
    assert [row.split()[0] for row in (teacher, plain, distilled)
            ] == ['teacher', 'plain', 'distilled']
    assert plain.split()[2] == distilled.split()[2] != teacher.split()[2]
    assert checkpoint.endswith(str(tmp_path / 'distilled' / 'iter_2.pth'))
    assert picture == f'Picture: {tmp_path / "demo.png"}'
    assert (tmp_path / 'demo.png').stat().st_size > 10_000
