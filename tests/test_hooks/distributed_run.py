"""One process of a distributed run: RANK, WORLD_SIZE, ... are set."""
import os
import sys

import torch
import torch.distributed as dist
from mmengine.runner import Runner
from tiny_runs import config, teacher


def detector(work_dir, batch_size):
    """The losses of detectors, on a GFL taught by one that is wider.

    Its own losses weigh 0: their normalisers are 1 at least, on each rank.
    """
    import tiny_detectors

    return tiny_detectors.without_chance(tiny_detectors.config(
        work_dir, 'gfl', dict(
            type='mmselfkd.DistillHook',
            teacher=tiny_detectors.teacher('gfl', 12),
            task_schedule=dict(type='LinearRamp', end=4, end_factor=0.),
            losses=dict(
                loss_pkd=dict(type='PKDLoss', source='features'),
                loss_fgd=dict(type='FGDLoss', source='features'),
                loss_ld=dict(type='LDLoss', source=dict(
                    student=['boxes', 'logits'], teacher='boxes')),
                loss_crosskd=dict(
                    type='CrossKDLoss', source='branches.-1'))),
        dict(type='EMAHook'), **{
            'train_cfg.max_iters': 4,
            'optim_wrapper.clip_grad': dict(max_norm=1.),
            'model.backbone.norm_eval': True,
            'train_dataloader.batch_size': batch_size,
            'train_dataloader.sampler.shuffle': False}))


def queries(work_dir, batch_size):
    """Classes and boxes of the queries of a DETR, matched to a wider one's.

    Its own losses weigh 0, since each rank has a normaliser of its own. By
    SGD: the gradients of some biases of attention are 0 but for rounding,
    which AdamW would make steps of.
    """
    import tiny_detectors

    return tiny_detectors.without_chance(tiny_detectors.config(
        work_dir, 'detr', dict(
            type='mmselfkd.DistillHook',
            teacher=tiny_detectors.teacher('detr', 12),
            task_schedule=dict(type='LinearRamp', end=4, end_factor=0.),
            losses=tiny_detectors.OF_QUERIES), **{
            'train_cfg.max_iters': 4,
            'train_dataloader.batch_size': batch_size,
            'train_dataloader.sampler.shuffle': False}))


HOOKS = dict(
    frozen=dict(
        type='mmselfkd.DistillHook',
        teacher=teacher(),
        diagnose=dict(interval=3),
        losses=dict(
            loss_kd=dict(type='KDLoss', source='logits'),
            loss_nfd=dict(
                type='NFDLoss', source='features', loss_weight='auto'),
            loss_late=dict(
                type='NFDLoss', source='backbone[3]', loss_weight='auto',
                schedule=dict(type='LinearRamp', begin=2, end=3)),
            loss_ho=dict(
                type='HolisticLoss', source='logits', mode='hinge',
                loss_weight=0.1,  # learns so fast that its gradient shows
                optimizer=dict(type='SGD', lr=0.1)))),
    own=dict(
        type='mmselfkd.DistillHook',
        teacher=dict(
            refined=dict(
                type='SelfTeacher',
                head=dict(type='SegformerHead', dropout_ratio=0.)),
            average=dict(type='EMATeacher', momentum=0.1)),
        losses=dict(
            loss_at=dict(
                type='ATLoss', schedule=dict(type='ExponentialRamp', begin=2),
                source=dict(student='backbone', teacher='refined:neck')),
            loss_kd=dict(
                type='KDLoss',
                source=dict(student='logits', teacher='average:logits')))),
    mix=dict(type='mmselfkd.MixSKDHook'),
    cirkd=dict(
        type='mmselfkd.CIRKDHook',
        teacher=teacher(),
        losses=dict(
            loss_minibatch=None,  # its pairs are those of a rank
            loss_memory=dict(
                loss_weight=10., pixels_per_class=10**4, pixel_memory=3000,
                region_memory=20, pixel_samples=3000, region_samples=20))),
    unlabelled=dict(
        type='mmselfkd.DistillHook',
        teacher=teacher(),
        losses=dict(
            loss_nfd=dict(type='NFDLoss', source='features'),
            loss_ho=dict(
                type='HolisticLoss', source='logits', mode='hinge',
                loss_weight=0.1)),
        unlabelled=dict(share=0.75, dataloader=dict(
            batch_size=4, num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=False),
            dataset=dict(
                type='mmselfkd.ToySegDataset', size=32, length=6,
                split='test', pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='PackSegInputs')])))),
    ignored=dict(
        type='mmselfkd.DistillHook',
        teacher=teacher(),
        losses=dict(loss_kd=dict(
            type='KDLoss', source='logits', loss_weight=10.))))


NORMS = dict(  # of the backbone, of the heads
    group=[dict(type='GN', num_groups=2, requires_grad=True)] * 2,
    frozen=[dict(type='BN', requires_grad=False),
            dict(type='GN', num_groups=2, requires_grad=True)],
    synchronised=[dict(type='SyncBN', requires_grad=True)] * 2)


def main(name, work_dir, batch_size, norms, backend):
    distributed = int(os.environ.get('WORLD_SIZE', 1)) > 1
    if backend == 'nccl':
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    if distributed:
        dist.init_process_group(backend)
    detectors = dict(detector=detector, queries=queries)
    cfg = detectors[name](work_dir, batch_size) if name in detectors else (
        segmentor(name, work_dir, batch_size, norms))
    if distributed:
        cfg.launcher = 'pytorch'
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel', device_ids=None,
            broadcast_buffers=False, find_unused_parameters=False)
    Runner.from_cfg(cfg).train()


def segmentor(name, work_dir, batch_size, norms):
    cfg = config(
        work_dir,
        HOOKS[name],
        dict(type='EMAHook'),
        iters=4,
        **{
            'train_dataloader.batch_size': batch_size,
            'train_dataloader.sampler.shuffle': False,
            'model.backbone.norm_cfg': NORMS[norms][0],
            'model.backbone.norm_eval': norms == 'frozen',
        })
    for head in ('decode_head', 'auxiliary_head'):
        cfg.model[head].update(norm_cfg=NORMS[norms][1], dropout_ratio=0.)
    if name == 'unlabelled':
        cfg.custom_hooks[0].unlabelled.dataloader.batch_size = batch_size
    if name == 'cirkd':  # the images of all iterations are others
        cfg.train_dataloader.dataset.length = 20
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline.pop(2)  # the random flip
    if name == 'ignored':  # every second image, so all of the second rank's
        pipeline.insert(2, dict(type='mmselfkd.KeepLabels', one_in=2))
        for head in ('decode_head', 'auxiliary_head'):
            cfg.model[head].loss_decode.avg_non_ignore = False
    return cfg


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
