"""Every loss of the package on maps of one level, and how to call each."""
import inspect

import torch

from mmselfkd import losses

CLASSES = [getattr(losses, name) for name in losses.__all__
           if inspect.isclass(getattr(losses, name))
           and name not in ('AdversarialLoss', 'DistillationLoss')
           and not getattr(losses, name).levels_together]


def made(cls):
    """One with its defaults; a memory is small, and of three classes."""
    options = dict(num_classes=3, pixel_memory=20, region_memory=5)
    taken = inspect.signature(cls).parameters
    return cls(**{name: value for name, value in options.items()
                  if name in taken})


def extra(loss, maps, side=2):
    """The keywords it asks for, of an input of ``side`` times the size."""
    n, _, height, width = maps.shape
    height, width = side * height, side * width
    options = {}
    if loss.needs_label:
        options['label'] = torch.zeros(
            n, height, width, dtype=torch.long, device=maps.device)
    if loss.needs_image:
        options['image'] = torch.ones(
            n, 3, height, width, device=maps.device)
    if loss.needs_objects:
        options['objects'] = torch.zeros(
            n, 1, *maps.shape[2:], device=maps.device)
        options['objects'][:, :, :2, :2] = 0.25
    if loss.needs_regions:
        options['regions'] = torch.ones(
            n, 2, *maps.shape[2:], device=maps.device) / maps[0, 0].numel()
    if loss.needs_classifier:
        options['classifier'] = lambda maps: maps.cumsum(1)
    return options
