"""Runs whose losses are recorded in ``recorded_runs.json``.

``test_recorded_runs.py`` compares. Where a change of a loss, a preset or a
random draw is meant to change what a run computes, record the cases anew::

    python -m tests.recorded_runs nfd skd_retinanet    # or all, without names

It prints what is new. A commit that changes the file says in its message
which cases changed, why, and that no others did.
"""
import json
import math
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tiny_detectors  # noqa: E402
import tiny_runs  # noqa: E402
import torch  # noqa: E402
from helpers import train  # noqa: E402
from mmengine.config import Config  # noqa: E402

import mmselfkd  # noqa: E402

FILE = Path(__file__).with_suffix('.json')
ITERATIONS = 10
# methods that need boxes
DETECTORS = dict(CrossKDHook='gfl', FGDHook='fcos', LDHook='gfl')
METHODS = [name for name in mmselfkd.__all__
           if name.endswith('Hook') and name not in (
               'DistillHook', 'DistillVisualizationHook', *DETECTORS)]
KD = dict(type='KDLoss', source='logits')


def _segmentor(*hooks, **changes):
    return lambda folder: tiny_runs.config(
        folder, *hooks, iters=ITERATIONS, **changes)


def _detector(name, hook, **changes):
    return lambda folder: tiny_detectors.config(
        folder, name, hook, **{'train_cfg.max_iters': ITERATIONS, **changes})


def _distil(name, width, **losses):
    """A detector, taught by a wider one."""
    return _detector(name, dict(
        type='mmselfkd.DistillHook', losses=losses,
        teacher=tiny_detectors.teacher(name, width)))


def _method(name, **options):
    if getattr(mmselfkd, name).preset_teacher is None:
        options.setdefault('teacher', tiny_runs.teacher())
    return dict(type=f'mmselfkd.{name}', **options)


# whose gradients are so large that rounding shows after ten steps
SLOW = dict(IFVDHook={'optim_wrapper.optimizer.lr': 1e-3})
NFD = dict(type='NFDLoss', source='features', loss_weight=2.0)
CASES = {
    # every preset, as it is
    **{name.removesuffix('Hook').lower(): _segmentor(
        _method(name), **SLOW.get(name, {})) for name in METHODS},
    **{name.removesuffix('Hook').lower(): _detector(detector, _method(
        name, teacher=tiny_detectors.teacher(detector, 16)),
        **{'optim_wrapper.clip_grad': dict(max_norm=1.)})
       for name, detector in DETECTORS.items()},
    # teachers
    'ka_dtd_frozen': _segmentor(_method(
        'KADTDHook', teacher=tiny_runs.teacher())),
    'snapshot': _segmentor(_method(
        'NFDHook', teacher=dict(type='SnapshotTeacher', interval=3))),
    'normalisation': _segmentor(_method('NFDHook', teacher=tiny_runs.teacher(
        mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=False))),
    'two_hooks': _segmentor(
        _method('SKDHook', losses=dict(loss_ho=None)), _method('NFDHook')),
    # heads of detectors
    **{f'nfd_{name}': _distil(name, 16, loss_nfd=dict(NFD, foreground=0.5))
       for name in ('retinanet', 'fcos', 'gfl', 'faster', 'cascade', 'detr')},
    'skd_retinanet': _detector('retinanet', _method(
        'SKDHook', teacher=tiny_detectors.teacher('retinanet', 16))),
    'kd_mask': _distil('mask', 16, loss_kd=KD, loss_m=dict(
        KD, source='roi_head.mask_head.conv_logits')),
    'kd_deformable': _distil('deformable', 8, loss_kd=KD),
    # the coarsest level has one position: BN would make 1 and -1 of the two
    # in a batch, and which is which hangs on rounding
    'frskd_fcos': _detector('fcos', _method('FRSKDHook', teacher=dict(
        type='SelfTeacher', neck=dict(
            type='BiFPN', norm_cfg=dict(type='GN', num_groups=4))))),
    'tfd_gfl': _detector('gfl', _method('TFDHook')),
}


def run(case):
    """What a case logs: key -> its value in each iteration, None: none."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cfg = CASES[case](folder)
        cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)
        entries = train(cfg)[1].entries
    keys = sorted(key for key in {key for entry in entries for key in entry}
                  if 'loss' in key or key.startswith('distill.'))
    return {key: [entry.get(key) for entry in entries] for key in keys}


def differences(recorded, now):
    """Where two runs differ by more than another processor would make them.

    Rounding grows from step to step: in PKD to 2e-3 after six. Shares of
    pixels, such as the agreement, jump by whole pixels.
    """
    found = [f'{key}: is {"gone" if key in recorded else "new"}'
             for key in sorted(recorded.keys() ^ now.keys())]
    for key in sorted(recorded.keys() & now.keys()):
        is_share = key in ('distill.agreement', 'distill.teacher_accuracy')
        for number, (a, b) in enumerate(zip(recorded[key], now[key])):
            if None in (a, b):
                same = a is b
            else:
                same = math.isclose(a, b, rel_tol=1e-3 if number < 5 else 2e-2,
                                    abs_tol=0.02 if is_share else 1e-5)
            if not same:
                found.append(f'{key}, iteration {number}: {a} was recorded, '
                             f'it is {b}')
                break
    return found


def load():
    """The recorded cases."""
    return json.loads(FILE.read_text())


def _save(recorded):
    """A case a line, six digits of each value."""
    lines = (f'{json.dumps(case)}: ' + json.dumps(
        {key: [value if value is None else float(f'{value:.6g}')
               for value in values]
         for key, values in recorded[case].items()}, separators=(',', ':'))
        for case in sorted(recorded))
    FILE.write_text('{\n' + ',\n'.join(lines) + '\n}\n')


def main(names):
    # laying out a detector's config for the log takes longer than the run
    Config.pretty_text = ''
    recorded = load() if FILE.exists() else {}
    recorded = {name: recorded[name] for name in recorded if name in CASES}
    for name in names or CASES:
        before, now = recorded.get(name), run(name)
        new = ['is new'] if before is None else differences(before, now)
        print('\n'.join([name, *(f'    {line}' for line in new)]), flush=True)
        if new:
            recorded[name] = now
            _save(recorded)


if __name__ == '__main__':
    main(sys.argv[1:])
