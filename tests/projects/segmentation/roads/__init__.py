"""The project's own data set and hook."""
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, TRANSFORMS


@DATASETS.register_module()
class RoadDataset(BaseSegDataset):
    """A road of random place and width on grass."""

    METAINFO = dict(classes=('grass', 'road'), palette=[[0, 90, 0], [90] * 3])

    def load_data_list(self):
        return [dict(number=number, seg_fields=[]) for number in range(4)]


@TRANSFORMS.register_module()
class DrawRoad(BaseTransform):
    """Image and labels of one road, 32x32."""

    def transform(self, results):
        rng = np.random.default_rng(results['number'])
        left, width = rng.integers(0, 20), rng.integers(4, 12)
        labels = np.zeros((32, 32), np.uint8)
        labels[:, left:left + width] = 1
        image = rng.normal(80 + 60 * labels[..., None], 20, (32, 32, 3))
        results['img'] = image.clip(0, 255).astype(np.uint8)
        results['gt_seg_map'] = labels
        results['seg_fields'].append('gt_seg_map')
        results['img_shape'] = results['ori_shape'] = labels.shape
        results['img_path'] = f'{results["number"]}.png'
        return results


@HOOKS.register_module()
class CountHook(Hook):
    """Writes how many iterations were trained."""

    def after_train(self, runner):
        Path(runner.work_dir, 'count.txt').write_text(str(runner.iter))
