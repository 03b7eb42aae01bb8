"""A host for mmpose's top-down heatmap models, as a user would write it.

It uses ``mmselfkd.hosts`` alone, and imports neither mmpose nor the rest of
the package.
"""
from typing import Any

from torch import nn

from mmselfkd.hosts import (
    Host,
    Place,
    Reading,
    find_head_spec,
    register_head,
    register_host,
)


@register_host
class MMPoseHost(Host):
    """A model whose ``head`` is a ``HeatmapHead``.

    - ``logits`` and ``heatmaps``: the heatmaps, one a keypoint;
    - ``features``: what enters the layer that makes them;
    - ``pyramid``: the stages of the backbone.
    """

    aliases = ('logits', 'heatmaps', 'features', 'pyramid')

    def owns(self, model: nn.Module) -> bool:
        head = getattr(model, 'head', None)
        return any(cls.__name__ == 'HeatmapHead'
                   for cls in type(head).__mro__)

    def heads(self, model: nn.Module) -> list[nn.Module]:
        return [model.head]

    def alias(self, model: nn.Module, name: str, where: str) -> Place | None:
        if name == 'pyramid':
            return Place([model.backbone])
        kind = 'features' if name == 'features' else 'classes'
        return find_head_spec(model.head).place(model.head, kind)

    def ignore_index(self, model: nn.Module) -> int | None:
        return None  # there is no class map

    def image_size(self, sample: Any,
                   size: tuple[int, int]) -> tuple[int, int]:
        """All of the input: a person is cut out and warped to its size.

        ``img_shape`` of the sample is that of the photograph.
        """
        return size


def _heatmaps(head: nn.Module) -> Place:
    """Each keypoint has a map of its own, apart from the others.

    A head that learns by the binary cross entropy gives scores; another one,
    by the squared error, the heat itself.
    """
    gives_scores = type(head.loss_module).__name__ == 'BCELoss'
    return Place([head.final_layer], reading=Reading(
        'classes', 'sigmoid', 1) if gives_scores else Reading('values'))


register_head('HeatmapHead', classes=_heatmaps, features='final_layer')
