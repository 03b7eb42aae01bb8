"""Discriminator of pooled features (MixSKD)."""
from torch import Tensor, nn


class FeatureDiscriminator(nn.Module):
    """Tell two kinds of feature maps apart by their global averages.

    The mean over all positions, a linear layer, ReLU and a linear layer of
    two outputs, one logit for each kind.

    Differs from the official code: that one holds it where no optimizer
    finds it, so it never learns.

    Args:
        channels (int): channels of the features.
        hidden (int): width between the two layers. Defaults to 128.

    Shape:
        - features: (N, channels, H, W).
        - Output: (N, 2).

    Raises:
        ValueError: if an argument is out of range or shapes do not agree.

    Reference:
        MixSKD: Self-Knowledge Distillation from Mixup for Image Recognition,
        ECCV 2022, arXiv:2208.05768, winycg/Self-KD-Lib (ede3062).

    Example:
        >>> import torch
        >>> discriminator = FeatureDiscriminator(16)
        >>> discriminator(torch.rand(4, 16, 8, 5)).shape
        torch.Size([4, 2])
    """

    def __init__(self, channels: int, hidden: int = 128):
        super().__init__()
        for name, value in (('channels', channels), ('hidden', hidden)):
            if value < 1:
                raise ValueError(
                    f'{name} must be 1 or more, but got {value!r}')
        self.channels = channels
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, features: Tensor) -> Tensor:
        """Two logits for every map, shape (N, 2)."""
        if features.ndim != 4 or features.shape[1] != self.channels:
            raise ValueError(f'features must have shape (N, {self.channels}, '
                             f'H, W), but got {tuple(features.shape)}')
        return self.layers(features.mean((2, 3)))
