"""Hooks: the mechanism, and one file per method that fills it in."""
from .aicsd_hook import AICSDHook
from .distill_hook import DistillHook
from .icsd_hook import ICSDHook
from .nfd_hook import NFDHook
from .skd_hook import SKDHook

__all__ = ['AICSDHook', 'DistillHook', 'ICSDHook', 'NFDHook', 'SKDHook']
