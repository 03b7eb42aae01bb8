"""benchmarks/gpu.sh on a CPU, on a few small images."""
import json
import os
import subprocess
import sys

import numpy as np
from PIL import Image


def test_dry_run(root, tmp_path):
    """Tests, cost of a step, runs with their table; nothing runs again."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for kind, suffix, channels in (('images', 'jpg', (3,)),
                                       ('annotations', 'png', ())):
            folder = tmp_path / 'camvid' / kind / split
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(rng.integers(
                    0, 11, (48, 64, *channels), dtype=np.uint8)).save(
                        folder / f'{i}.{suffix}')
    no_weights = ['model.backbone.init_cfg=None',
                  'train_dataloader.batch_size=2']
    runs = [dict(config=f'camvid_{name}', options=no_weights, iterations=[2],
                 seeds=[0]) for name in ('teacher', 'taught')]
    (tmp_path / 'runs.json').write_text(json.dumps(runs))

    def dry_run(**changes):
        return subprocess.run(
            ['bash', str(root / 'benchmarks' / 'gpu.sh')], text=True,
            capture_output=True, env=dict(
                os.environ, PYTHON=sys.executable, CUDA_VISIBLE_DEVICES='',
                GPU_DIR=str(tmp_path / 'out'), CAMVID=str(tmp_path / 'camvid'),
                RUNS=str(tmp_path / 'runs.json'), RESOLUTION='half',
                PAIR='camvid', METHODS='kd', COST='--iters 1 --warmup 0',
                TEACHER='camvid_teacher-val-2-seed0/iter_2.pth', **changes))

    done = dry_run()
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / 'out'
    assert 'needs a GPU' in (out / 'tests.txt').read_text()
    for row in 'plain', 'kd', 'kd, cached':
        assert f'| {row} |' in (out / 'step_cost.md').read_text()
    table = (out / 'camvid.md').read_text()
    assert [line.split()[1] for line in table.splitlines()[2:]] == [
        'camvid_taught', 'camvid_teacher']
    again = dry_run(MINUTES='0')  # of what is finished nothing needs time
    assert again.returncode == 0 and '==' not in again.stdout
    (out / 'step_cost.md').unlink()
    late = dry_run(MINUTES='0')
    assert late.returncode == 1 and 'not finished: step_cost.md' in late.stdout
