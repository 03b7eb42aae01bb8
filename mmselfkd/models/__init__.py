"""Parts of models that the hosts lack."""
from .discriminator import Discriminator

__all__ = ['Discriminator']
