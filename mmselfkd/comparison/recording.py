"""What a run and a test write down, to be compared with others.

A folder of a run has beside mmengine's own files:

- ``run.json``: what it is, written before it starts
  (:class:`~mmselfkd.comparison.results.Plan`).
- ``facts.json``: its size and cost, written by :class:`ComparisonHook`.
- ``final.pth``: a link to its last checkpoint, once it is trained.
- ``evaluation.json``: the metrics of that, from :func:`evaluate`.
"""
import json
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import Hook

from .. import randomness
from ..distillation import ENTRY, DistillationRun
from ..errors import ConfigError
from ..hooks import DistillHook
from ..hooks.setup import unwrapped
from ..registry import register_hook

FACTS, EVALUATION, FINAL = 'facts.json', 'evaluation.json', 'final.pth'


def write_json(path: Path, value: Any) -> None:
    """Write a file that is there as a whole or not at all."""
    part = path.with_suffix('.part')
    part.write_text(json.dumps(value))
    os.replace(part, path)


def read_json(path: Path) -> Any:
    """What it holds; an empty dict if it is not there.

    Raises:
        ConfigError: It is no JSON.
    """
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except json.JSONDecodeError as error:
        raise ConfigError(f'{path} is damaged ({error}); remove it, and what '
                          'it held is made anew') from error


@register_hook
class ComparisonHook(Hook):
    """Makes runs of one seed alike, and writes down what each costs.

    The random generators follow from seed, rank and iteration. So runs of one
    seed see the same augmentations and the same dropout, whatever a method
    draws, and a run that was resumed goes on as if it had not been stopped.
    Workers of a data loader have generators of their own: there that holds
    for ``num_workers=0`` only.
    """

    priority = 'VERY_LOW'

    def before_train(self, runner: Any) -> None:
        self._seed(runner, 'load')
        self._steps: list[float] = []
        student = unwrapped(runner.model)
        along = getattr(student, ENTRY, None)
        self.facts = dict(
            iterations=runner.max_iters,
            parameters=_trained(student) - _trained(along),
            # adapters, self-teachers and discriminators
            along=_trained(along) + sum(
                _trained(trainer.losses)
                for run in _distillations(runner)
                for trainer in run.discriminators.values()))
        self._write(runner)

    def before_train_iter(self, runner: Any, batch_idx: int,
                          data_batch: Any = None) -> None:
        self._seed(runner, 'train')
        self._begin = time.process_time()

    def after_train_iter(self, runner: Any, batch_idx: int,
                         data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        self._steps.append(time.process_time() - self._begin)
        # what is loaded next belongs to the next iteration
        self._seed(runner, 'load', 1)

    def after_val(self, runner: Any) -> None:
        self._seed(runner, 'load')

    def after_train(self, runner: Any) -> None:
        if not is_main_process():
            return
        work_dir = Path(runner.work_dir)
        last = Path((work_dir / 'last_checkpoint').read_text().strip())
        link = work_dir / FINAL
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(last, work_dir))
        self.facts.update(_peak_memory())
        if self._steps and not torch.cuda.is_available():
            self.facts['cpu_seconds'] = float(np.median(self._steps))
        classes = runner.train_dataloader.dataset.metainfo.get('classes')
        self.facts['advice'] = [
            line for run in _distillations(runner)
            if run.diagnosis is not None
            for line in run.diagnosis.advice(classes)]
        self._write(runner)

    def _seed(self, runner: Any, what: str, ahead: int = 0) -> None:
        randomness.set_generators(
            runner.seed, get_rank(), runner.iter + ahead, what)

    def _write(self, runner: Any) -> None:
        if is_main_process():
            write_json(Path(runner.work_dir) / FACTS, self.facts)


def _distillations(runner: Any) -> list[DistillationRun]:
    return [hook.run for hook in runner.hooks
            if isinstance(hook, DistillHook) and hook.run is not None]


def _trained(module: torch.nn.Module | None) -> int:
    if module is None:
        return 0
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _peak_memory() -> dict[str, Any]:
    """Bytes, of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return dict(memory=torch.cuda.max_memory_allocated(),
                    memory_of=torch.cuda.get_device_name())
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return dict(memory=1024 * kibibytes, memory_of='CPU')


class ImageScores(Hook):
    """How well a model does on each image that it is tested on.

    Attributes:
        kind (str | None): What the scores are; None without ground truth.
        scores (list[float]): By the order of the data set; more is better.
        confusion (np.ndarray | None): (K, K), pixels of each class, by the
            predicted class; of a segmentor.
    """

    def __init__(self, classes: Sequence[str], ignore_index: int) -> None:
        self.classes, self.ignore_index = classes, ignore_index
        self.kind: str | None = None
        self.scores: list[float] = []
        self.confusion: np.ndarray | None = None

    def after_test_iter(self, runner: Any, batch_idx: int,
                        data_batch: Any = None,
                        outputs: Sequence[Any] | None = None) -> None:
        for sample in outputs or ():
            score = image_score(sample, self.classes, self.ignore_index)
            if score is not None:
                self.kind, value = score
                self.scores.append(value)
            if 'pred_sem_seg' in sample and 'gt_sem_seg' in sample:
                counts = confusion(sample, len(self.classes),
                                   self.ignore_index)
                if self.confusion is None:
                    self.confusion = np.zeros_like(counts)
                self.confusion += counts


def confusion(sample: Any, classes: int, ignore_index: int) -> np.ndarray:
    """Pixels by their class (rows) and their predicted class: (K, K)."""
    truth = sample.gt_sem_seg.data[0].cpu().numpy()
    found = sample.pred_sem_seg.data[0].cpu().numpy()
    counts = truth != ignore_index
    pairs = classes * truth[counts].astype(np.int64) + found[counts]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def image_score(sample: Any, classes: Sequence[str],
                ignore_index: int) -> tuple[str, float] | None:
    """A name and a number for one image; more is better.

    Segmentation: the share of labelled pixels that are right. Boxes: AP50 of
    this image, by mmdet. Depth: minus the mean absolute error.

    Args:
        sample (DataElement): What the host's model returned for the image.
        classes (Sequence[str]): Those of the data set.
        ignore_index (int): The label that does not count.
    """
    if 'pred_sem_seg' in sample and 'gt_sem_seg' in sample:
        counts = confusion(sample, len(classes), ignore_index)
        return 'pixel accuracy', float(
            np.trace(counts) / max(counts.sum(), 1))
    if 'pred_depth_map' in sample and 'gt_depth_map' in sample:
        error, known = depth_error(sample)
        return 'minus absolute error', -float(
            error[known].mean()) if known.any() else 0.0
    if 'pred_instances' in sample and 'bboxes' in sample.get(
            'gt_instances', ()):
        return 'AP50', _average_precision(sample, classes)
    return None


def depth_error(sample: Any) -> tuple[np.ndarray, np.ndarray]:
    """Absolute error (H, W), and where the true depth is known."""
    truth = sample.gt_depth_map.data.squeeze().cpu().numpy()
    found = sample.pred_depth_map.data.squeeze().cpu().numpy()
    return np.abs(found - truth), truth > 0


def _average_precision(sample: Any, classes: Sequence[str]) -> float:
    from mmdet.evaluation import eval_map
    found, truth = sample.pred_instances, sample.gt_instances
    rows = torch.cat([found.bboxes, found.scores[:, None]], 1).cpu().numpy()
    labels = found.labels.cpu().numpy()
    boxes = truth.bboxes
    boxes = getattr(boxes, 'tensor', boxes).cpu().numpy()
    annotation = dict(bboxes=boxes, labels=truth.labels.cpu().numpy())
    value, _ = eval_map(
        [[rows[labels == k] for k in range(len(classes))]], [annotation],
        iou_thr=0.5, dataset=list(classes), logger='silent')
    return float(value)


def evaluate(runner: Any) -> dict[str, Any]:
    """Test as the host does, and keep what its evaluator says of each class.

    Args:
        runner (Runner): Not yet run.

    Returns:
        dict: ``metrics``; ``classes``, what the metric of the comparison is
        for each class; ``image_score``, ``images`` and ``confusion`` of
        :class:`ImageScores`.
    """
    evaluator = runner.test_loop.evaluator
    meta = runner.test_dataloader.dataset.metainfo
    names = list(meta.get('classes') or ())
    by_class: dict[str, float] = {}
    ignore_index = 255
    for metric in evaluator.metrics:
        if hasattr(metric, 'total_area_to_metrics'):  # mmseg's IoUMetric
            _keep_classes(metric, names, by_class)
            ignore_index = metric.ignore_index
        elif hasattr(metric, 'classwise'):  # mmdet's CocoMetric
            metric.classwise = True
    images = ImageScores(names, ignore_index)
    runner.register_hook(images)
    metrics = {key: float(value) for key, value in runner.test().items()}
    for name in names:
        key = f'coco/{name}_precision'
        if key in metrics:
            by_class[name] = metrics[key]
    return dict(
        metrics=metrics, classes=by_class, image_score=images.kind,
        images=images.scores,
        confusion=None if images.confusion is None else (
            images.confusion.tolist()))


def _keep_classes(metric: Any, names: Sequence[str],
                  by_class: dict[str, float]) -> None:
    """Keep the IoU of each class, which IoUMetric only prints."""
    compute = metric.total_area_to_metrics

    def kept(*args: Any, **kwargs: Any) -> Any:
        found = compute(*args, **kwargs)
        if 'IoU' in found:
            by_class.update(zip(names, map(float, 100 * found['IoU'])))
        return found

    metric.total_area_to_metrics = kept
