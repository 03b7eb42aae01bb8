"""Parts of models that the hosts lack."""
from .discriminator import Discriminator
from .feature_discriminator import FeatureDiscriminator

__all__ = ['Discriminator', 'FeatureDiscriminator']
