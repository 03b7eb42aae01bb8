"""Making a case of detectors: the losses that look at boxes or at a head."""
import random
from typing import Any

import tiny_detectors

from .cases import STEPS, Case
from .models import Places

DENSE = ('retinanet', 'fcos', 'atss', 'gfl')
HEADS = (*DENSE, 'gfl', 'faster')
CONVOLUTIONS = 4  # of a branch
KINDS = dict(
    CrossKDLoss='branches', FGDLoss='features', PKDLoss='features',
    LDLoss=dict(student=['boxes', 'logits'], teacher='boxes'))
PRESETS = dict(CrossKDLoss='CrossKDHook', FGDLoss='FGDHook',
               PKDLoss='PKDHook', LDLoss='LDHook')


def make_detector(seed: Any, number: int, folder: str) -> Case:
    """A student, a teacher and losses, of which one at most is refused."""
    rng = random.Random(f'{seed} detector {number}')
    head = rng.choice(HEADS)
    taught = head if rng.random() < 0.6 else rng.choice(HEADS)
    case = Case(f'detector-{number}', head, Places([], [], []), (64, 64),
                expected='train')
    while True:
        losses = {f'loss_{kind[:2].lower()}': _entry(rng, kind)
                  for kind in rng.sample(sorted(KINDS), rng.choice([1, 1, 2]))}
        bad = [key for key, cfg in losses.items()
               if _is_refused(head, taught, cfg)]
        if not bad or len(bad) == 1 and rng.random() < 0.3:
            break
    if bad:
        case.expected, case.says = 'error', f'losses.{bad[0]}'
    kind = next(iter(losses.values()))['type']
    case.hook = dict(type='mmselfkd.DistillHook', losses=losses)
    if len(losses) == 1 and rng.random() < 0.5:  # its method, as it is
        cfg, = losses.values()
        key, = _preset(kind)
        case.hook = dict(type=f'mmselfkd.{PRESETS[kind]}', losses={key: cfg})
        case.says = case.says and f'losses.{key}'
    case.hook['teacher'] = tiny_detectors.teacher(
        taught, rng.choice([8, 12, 16]))
    case.what = f'{head} taught by {taught}'
    cfg = tiny_detectors.config(folder, head, **{
        'train_cfg.max_iters': STEPS,
        # features of a random teacher are large
        'optim_wrapper.clip_grad': dict(max_norm=1.)})
    case.cfg = cfg.to_dict() | dict(custom_hooks=[case.hook])
    if rng.random() < 0.2:
        case.bf16 = True
        case.cfg['optim_wrapper']['type'] = 'BFloat16OptimWrapper'
    return case


def _preset(kind: str) -> dict:
    import mmselfkd

    return getattr(mmselfkd, PRESETS[kind]).preset


def _entry(rng: random.Random, kind: str) -> dict:
    source = KINDS[kind]
    cfg = dict(type=kind, source=source)
    if kind == 'CrossKDLoss':
        split = rng.choice([*range(-CONVOLUTIONS, CONVOLUTIONS + 1),
                            CONVOLUTIONS + 1, -CONVOLUTIONS - 1])
        cfg['source'] = f'branches.{split}'
        if rng.random() < 0.3:
            cfg.update(beta=rng.choice([0, 1, 2]), box_weight=rng.choice(
                [0, 1, 2.5]))
    if rng.random() < 0.4:
        cfg['loss_weight'] = rng.choice([0.1, 0.5, 2.0])
    if rng.random() < 0.3:
        cfg['foreground'] = rng.choice([0., 0.5, 1.])
    if rng.random() < 0.2:
        cfg['schedule'] = dict(type='LinearRamp', start_factor=0.5)
    return cfg


def _is_refused(head: str, taught: str, cfg: dict) -> bool:
    kind = cfg['type']
    if kind in ('FGDLoss', 'LDLoss') and 'foreground' in cfg:
        return True
    if kind == 'LDLoss':
        return {head, taught} != {'gfl'}
    if kind == 'CrossKDLoss':
        split = int(cfg['source'].partition('.')[2])
        return abs(split) > CONVOLUTIONS or 'faster' in (head, taught)
    return (head == 'faster') != (taught == 'faster')  # other strides
