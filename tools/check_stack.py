"""Whether the packages of one environment distil together: a row of a table.

Run it with the Python of that environment. It trains two steps of a segmentor
(with an adapter, a discriminator and a self-teacher) and of a detector (with
adapters and a self-teacher), saves, resumes for a third and loads the result
strictly into the plain model. The rows are kept in
docs/reliability.md.
"""
import importlib
import os
import platform
import sys
import traceback
from importlib.metadata import packages_distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory

TOY = Path(__file__).resolve().parent.parent / 'configs' / 'toy'
PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet')
UNSAFE = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'  # what an old mmengine needs


def segmentation(folder):
    """A short run of mmseg in ``folder``."""
    hook = dict(
        type='mmselfkd.DistillHook',
        teacher=dict(
            big=dict(
                config=str(TOY / 'fpn_r18-w32_1xb8-1k_toy-64x64.py'),
                checkpoint='random'),
            refined=dict(type='SelfTeacher')),
        losses=dict(
            loss_nfd=dict(type='NFDLoss', source=dict(
                student='features', teacher='big:features')),
            loss_ho=dict(type='HolisticLoss', source=dict(
                student='logits', teacher='big:logits')),
            loss_at=dict(type='ATLoss', source=dict(
                student='backbone', teacher='refined:neck'))))
    distil(TOY / 'fpn_r18-w8_1xb8-1k_toy-64x64.py', hook, folder)


def detection(folder):
    """A short run of mmdet in ``folder``."""
    hook = dict(
        type='mmselfkd.DistillHook',
        teacher=dict(
            big=dict(
                config=str(TOY / 'fcos_r18-w32_1xb8-1k_toy-96x96.py'),
                checkpoint='random'),
            refined=dict(type='SelfTeacher')),
        losses=dict(
            loss_nfd=dict(type='NFDLoss', foreground=0.5, source=dict(
                student='features', teacher='big:features')),
            loss_kd=dict(type='KDLoss', source=dict(
                student='logits', teacher='refined:logits'))))
    distil(TOY / 'fcos_r18-w8_1xb8-1k_toy-96x96.py', hook, folder)


# by the package that it is about
CHECKS = dict(mmseg=segmentation, mmdet=detection)


def distil(path, hook, folder):
    """Train, save, resume and load strictly; an exception if one fails."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, RUNNERS

    import mmselfkd  # noqa: F401
    from mmselfkd.checkpoint_files import load_checkpoint_file

    cfg = Config.fromfile(str(path))
    cfg.merge_from_dict(dict(
        work_dir=str(folder), custom_hooks=[hook], log_level='ERROR',
        train_dataloader=dict(batch_size=2, dataset=dict(length=8)),
        val_dataloader=dict(dataset=dict(length=2)),
        default_hooks=dict(checkpoint=dict(interval=1))))
    for steps, resume in ((2, False), (3, True)):
        cfg.train_cfg.update(max_iters=steps, val_interval=steps)
        cfg.update(resume=resume, experiment_name=f'{path.stem}_{steps}')
        RUNNERS.build(cfg).train()
    saved = load_checkpoint_file(str(folder / 'iter_3.pth'), trust=True)
    plain = MODELS.build(dict(cfg.model, _scope_=cfg.default_scope))
    plain.load_state_dict(saved['state_dict'], strict=True)
    if not all(value.isfinite().all() for value in plain.state_dict().values()
               ) or not saved['mmselfkd']['modules']:
        raise ValueError('the student is not finite or nothing was trained '
                         'along')


def distribution(package):
    """``mmengine 0.10.7`` or ``onedl-mmengine 0.10.12``; '-' without it."""
    names = packages_distributions().get(package)
    if not names:
        return '-'
    text = f'{names[0]} {version(names[0])}'
    if package == 'mmcv':
        try:
            compiled = importlib.import_module('mmcv._ext').__file__
        except ImportError:
            return f'{text}, without operators'
        if compiled.endswith('.py'):
            return f'{text}, operators stubbed'
    return text


def main():
    sys.path.insert(0, str(TOY.parents[1]))
    results = []
    for package, check in CHECKS.items():
        with TemporaryDirectory() as folder:
            try:
                check(Path(folder))
                results.append(f'{package}: passed')
            except Exception as error:
                traceback.print_exc()
                results.append(f'{package}: {type(error).__name__}')
    if os.environ.get(UNSAFE):
        results.append(f'with {UNSAFE}={os.environ[UNSAFE]}')
    print('| ' + ' | '.join([
        platform.python_version(), *map(distribution, PACKAGES),
        '; '.join(results)]) + ' |')
    sys.exit(not all(f'{package}: passed' in results for package in CHECKS))


if __name__ == '__main__':
    main()
