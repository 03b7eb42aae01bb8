"""Hooks: the mechanism, and one file per method that fills it in."""
from .aicsd_hook import AICSDHook
from .cwd_hook import CWDHook
from .dist_hook import DISTHook
from .distill_hook import DistillHook
from .fitnets_hook import FitNetsHook
from .frskd_hook import FRSKDHook
from .icsd_hook import ICSDHook
from .ka_dtd_hook import KADTDHook
from .mgd_hook import MGDHook
from .mixskd_hook import MixSKDHook
from .nfd_hook import NFDHook
from .skd_hook import SKDHook
from .tfd_hook import TFDHook

__all__ = [
    'AICSDHook', 'CWDHook', 'DISTHook', 'DistillHook', 'FRSKDHook',
    'FitNetsHook', 'ICSDHook', 'KADTDHook', 'MGDHook', 'MixSKDHook', 'NFDHook',
    'SKDHook', 'TFDHook'
]
