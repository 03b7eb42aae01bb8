"""What models make of single images, side by side."""
import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np
import torch
from mmengine import fileio
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, init_default_scope

from ..checkpoint_files import load_checkpoint_file
from .recording import depth_error
from .results import PLAIN, TEACHER, Group, Run

MOST = 2  # images for the largest gain, and as many for the largest loss
SIDE = 384  # pixels: larger images are made smaller, boxes on small ones
#             are painted on enlarged ones
MATCH = 0.5  # IoU from which a box has found an object
# of one picture of all: neither is right in another way, one alone is right
SAME, OTHER, FIRST, SECOND = 150, 110, 0, 255


class Model(NamedTuple):
    """A trained model with its configuration.

    Args:
        cfg (Config): Of the run.
        model (nn.Module): Ready for prediction.
    """

    cfg: Config
    model: Any


def load_model(cfg: Config, checkpoint: str, trust: bool = False) -> Any:
    """A trained model, ready for prediction."""
    init_default_scope(cfg.get('default_scope'))
    model = MODELS.build(cfg.model)
    loaded = load_checkpoint_file(str(checkpoint), trust,
                                  option='--trust-checkpoint')
    model.load_state_dict(loaded.get('state_dict', loaded), strict=True)
    return model.to(get_device()).eval()


@torch.no_grad()
def predict(model: Any, sample: dict) -> Any:
    """What a model makes of one sample of a data set."""
    result, = model.test_step(pseudo_collate([copy.deepcopy(sample)]))
    return result


def read_image(sample: Any) -> np.ndarray:
    """The image file of a data sample: (H, W, 3), RGB."""
    image = mmcv.imfrombytes(fileio.get(sample.img_path))
    return image[..., ::-1].copy()


def class_map(labels: Any, dataset: Any) -> np.ndarray:
    """Every pixel in the colour of its class; black without a class."""
    palette = np.zeros((256, 3), np.uint8)
    known = dataset.metainfo.get('palette') or [
        [int(v) for v in np.random.default_rng(i).integers(0, 256, 3)]
        for i in range(len(dataset.metainfo['classes']))]
    palette[:len(known)] = known
    return palette[labels.data[0].cpu().numpy()]


def boxes(dataset: Any, image: np.ndarray, result: Any, which: str,
          zoom: float) -> np.ndarray:
    """The image, enlarged, with boxes in the colours of their classes.

    Args:
        dataset (Dataset): Names and colours of its classes.
        image (np.ndarray): (H, W, 3), RGB.
        result (DetDataSample): Of the model.
        which (str): ``'gt'`` or ``'pred'``; of these the surest, as many as
            there are objects.
        zoom (float): Of the sides.
    """
    from mmdet.visualization import DetLocalVisualizer
    result = copy.deepcopy(result)
    if which == 'pred':
        result.pred_instances = surest(result)
    instances = (result.gt_instances if which == 'gt'
                 else result.pred_instances)
    instances.bboxes = zoom * tensor(instances.bboxes)
    instances.pop('masks', None)
    painter = DetLocalVisualizer()
    painter.dataset_meta = dataset.metainfo
    painter.add_datasample(
        '', cv2.resize(image, None, fx=zoom, fy=zoom), result,
        draw_gt=which == 'gt', draw_pred=which == 'pred', pred_score_thr=0)
    return painter.get_image()


def tensor(boxes: Any) -> torch.Tensor:
    """Boxes (n, 4), of mmdet's own classes too."""
    return getattr(boxes, 'tensor', boxes).cpu()


def surest(result: Any) -> Any:
    """The surest predictions of an image, as many as it has objects."""
    found = result.pred_instances.cpu()
    order = found.scores.argsort(descending=True)
    return found[order[:len(result.gt_instances)]]


def found_objects(result: Any) -> list[bool]:
    """Whether each object has a box of its class among the surest ones."""
    from mmdet.structures.bbox import bbox_overlaps
    truth, found = result.gt_instances.cpu(), surest(result)
    if not len(truth) or not len(found):
        return [False] * len(truth)
    overlaps = bbox_overlaps(tensor(truth.bboxes), tensor(found.bboxes))
    same = truth.labels[:, None] == found.labels[None]
    return ((overlaps >= MATCH) & same).any(1).tolist()


class Picture(NamedTuple):
    """One image of a row.

    Args:
        title (str): What it is.
        image (np.ndarray): (H, W, 3), uint8, RGB.
    """

    title: str
    image: np.ndarray


class PictureRow(NamedTuple):
    """What all make of one image.

    Args:
        title (str): Method, image, and why it was chosen.
        pictures (list[Picture]): From the input to the disagreement.
        legend (str): What the last one shows.
    """

    title: str
    pictures: list[Picture]
    legend: str


def score_gains(plain: Mapping[int, Run],
                method: Mapping[int, Run]) -> np.ndarray:
    """Of each image, the mean over the seeds of both; empty without any."""
    found = [
        np.subtract(method[seed].evaluation['images'],
                    plain[seed].evaluation['images'])
        for seed in sorted(plain.keys() & method.keys())
        if plain[seed].evaluation.get('images')
        and len(method[seed].evaluation.get('images') or ()) == len(
            plain[seed].evaluation['images'])]
    return np.mean(found, 0) if found else np.zeros(0)


def choose(gains: np.ndarray, most: int = MOST) -> list[int]:
    """The images of the largest gains, then those of the largest losses.

    An image of no gain is not a gain, and one of no loss not a loss.
    """
    order = np.argsort(-gains, kind='stable')
    best = [int(i) for i in order[:most] if gains[i] > 0]
    worst = [int(i) for i in order[::-1][:most] if gains[i] < 0]
    return best + worst


def make_rows(group: Group, trust: bool = False) -> Iterator[PictureRow]:
    """Rows of pictures for every method.

    Args:
        group (Group): Whose checkpoints are there still.
        trust (bool): Whether checkpoints may run code.

    Raises:
        ValueError: A checkpoint is gone or cannot be read.
    """
    methods = group.methods()
    plain_runs = methods.pop(PLAIN)
    others: dict[str, Model] = {}
    dataset = None
    for name, runs in methods.items():
        gains = score_gains(plain_runs, runs)
        chosen = choose(gains)
        if not chosen:
            continue
        seed = min(plain_runs.keys() & runs.keys())
        plain, method = (_load(run[seed], trust)
                         for run in (plain_runs, runs))
        if dataset is None:
            dataset = DATASETS.build(plain.cfg.val_dataloader.dataset)
            if group.teacher is not None and group.teacher.evaluation:
                others[TEACHER] = _load(group.teacher, trust)
        kind = plain_runs[seed].evaluation['image_score']
        for i in chosen:
            sample = dataset[i]
            models = {**others, PLAIN: plain, name: method}
            results = {title: predict(one.model, sample)
                       for title, one in models.items()}
            pictures, legend = paint(dataset, results, name)
            yield PictureRow(
                f'{name}: image {i}, {kind} {gains[i]:+.3f} in the mean over '
                f'the seeds; shown is seed {seed}', pictures, legend)


def _load(run: Run, trust: bool) -> Model:
    cfg = Config.fromfile(run.plan.config)
    return Model(cfg, load_model(cfg, run.checkpoint, trust))


def paint(dataset: Any, results: Mapping[str, Any],
          method: str) -> tuple[list[Picture], str]:
    """Input, ground truth, predictions and disagreement of one image.

    Args:
        dataset (Dataset): Names and colours of its classes.
        results (Mapping[str, DataSample]): By model.
        method (str): The model that is compared with the plain student.
    """
    plain, distilled = results[PLAIN], results[method]
    image = read_image(plain)
    if 'pred_sem_seg' in plain:
        paint_kind = _paint_classes
    elif 'pred_depth_map' in plain:
        paint_kind = _paint_depth
    else:
        paint_kind = _paint_boxes
    pictures, legend = paint_kind(dataset, image, results, plain, distilled,
                                  method)
    return ([Picture(title, _shrunk(picture)) for title, picture in
             [('input', image), *pictures]], legend)


def _paint_classes(dataset: Any, image: np.ndarray,
                   results: Mapping[str, Any], plain: Any, distilled: Any,
                   method: str) -> tuple[list, str]:
    truth = plain.gt_sem_seg
    pictures = [('ground truth', class_map(truth, dataset))]
    pictures += [(name, class_map(result.pred_sem_seg, dataset))
                 for name, result in results.items()]
    a, b, c = (labels.data[0].cpu().numpy() for labels in (
        plain.pred_sem_seg, distilled.pred_sem_seg, truth))
    grey = np.full(a.shape, SAME, np.uint8)
    grey[a != b] = OTHER
    grey[(a != b) & (a == c)] = FIRST
    grey[(a != b) & (b == c)] = SECOND
    pictures.append(('disagreement', np.repeat(grey[..., None], 3, 2)))
    return pictures, (f'Disagreement: white, {method} alone is right; black, '
                      'the plain student alone; dark grey, neither.')


def _paint_depth(dataset: Any, image: np.ndarray,
                 results: Mapping[str, Any], plain: Any, distilled: Any,
                 method: str) -> tuple[list, str]:
    truth = plain.gt_depth_map.data.squeeze().cpu().numpy()
    errors = {name: depth_error(result) for name, result in results.items()}
    known = errors[PLAIN][1]
    far = truth[known].max(initial=1e-6)
    largest = max(error[known].max(initial=1e-6)
                  for error, _ in errors.values())
    pictures = [('ground truth', _ramp(truth / far))]
    for name, result in results.items():
        depth = result.pred_depth_map.data.squeeze().cpu().numpy()
        pictures += [(name, _ramp(depth / far)),
                     (f'error of {name}',
                      _ramp(errors[name][0] * known / largest))]
    change = (errors[PLAIN][0] - errors[method][0]) * known / largest
    pictures.append(('disagreement', _ramp((1 + change) / 2)))
    return pictures, (
        f'Depth: white is {far:.3g}; errors: white is {largest:.3g}. '
        f'Disagreement: lighter than grey, {method} is nearer to the truth; '
        'darker, the plain student.')


def _ramp(values: np.ndarray) -> np.ndarray:
    """Black for 0, white for 1."""
    grey = (255 * values.clip(0, 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, 2)


def _paint_boxes(dataset: Any, image: np.ndarray,
                 results: Mapping[str, Any], plain: Any, distilled: Any,
                 method: str) -> tuple[list, str]:
    zoom = SIDE / max(image.shape)
    pictures = [('ground truth', boxes(dataset, image, plain, 'gt', zoom))]
    pictures += [(name, boxes(dataset, image, result, 'pred', zoom))
                 for name, result in results.items()]
    canvas = cv2.resize(image, None, fx=zoom, fy=zoom) // 3 + 80
    for box, ours, theirs in zip(
            tensor(plain.gt_instances.bboxes).tolist(),
            found_objects(distilled), found_objects(plain)):
        if ours != theirs:
            x1, y1, x2, y2 = (round(zoom * edge) for edge in box)
            cv2.rectangle(canvas, (x1, y1), (x2, y2),
                          (SECOND, ) * 3 if ours else (FIRST, ) * 3, 3)
    pictures.append(('disagreement', canvas))
    return pictures, (
        f'Disagreement: objects that {method} alone has found (white) and '
        'that the plain student alone has (black), by a box of their class '
        f'with IoU {MATCH} among the surest.')


def _shrunk(image: np.ndarray) -> np.ndarray:
    zoom = SIDE / max(image.shape)
    if zoom >= 1:
        return image
    return cv2.resize(image, None, fx=zoom, fy=zoom,
                      interpolation=cv2.INTER_AREA)


def png(image: np.ndarray) -> bytes:
    """The bytes of a file of an RGB image."""
    return cv2.imencode('.png', image[..., ::-1])[1].tobytes()
