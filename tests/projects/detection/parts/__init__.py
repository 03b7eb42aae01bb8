"""The project's own data set, metric and hook."""
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import DATASETS, METRICS, TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@DATASETS.register_module()
class PartDataset(BaseDataset):
    """One bright part on a dark table."""

    METAINFO = dict(classes=('part', ), palette=[(255, 255, 255)])

    def load_data_list(self):
        return [dict(img_id=number) for number in range(4)]


@TRANSFORMS.register_module()
class DrawPart(BaseTransform):
    """Image and box of one part, 64x64."""

    def transform(self, results):
        rng = np.random.default_rng(results['img_id'])
        x, y = rng.integers(0, 40, 2)
        w, h = rng.integers(12, 24, 2)
        image = rng.normal(60, 20, (64, 64, 3))
        image[y:y + h, x:x + w] += 120
        results['img'] = image.clip(0, 255).astype(np.uint8)
        results['img_shape'] = results['ori_shape'] = (64, 64)
        results['scale_factor'] = (1., 1.)
        results['img_path'] = f'{results["img_id"]}.png'
        results['gt_bboxes'] = HorizontalBoxes(
            np.array([[x, y, x + w, y + h]], np.float32))
        results['gt_bboxes_labels'] = np.zeros(1, np.int64)
        results['gt_ignore_flags'] = np.zeros(1, bool)
        return results


@METRICS.register_module()
class PartsFound(BaseMetric):
    """The mean of the highest scores."""

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            scores = sample['pred_instances']['scores']
            self.results.append(scores.max().item() if len(scores) else 0.)

    def compute_metrics(self, results):
        return dict(score=round(float(np.mean(results)), 6))


@HOOKS.register_module()
class CountHook(Hook):
    """Writes how many iterations were trained."""

    def after_train(self, runner):
        Path(runner.work_dir, 'count.txt').write_text(str(runner.iter))
