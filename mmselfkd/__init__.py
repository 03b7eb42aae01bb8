"""Distillation for dense prediction on OpenMMLab, by one hook entry.

``mmselfkd.losses`` needs torch alone. Everything else needs mmengine and is
imported (and so registered) only where mmengine is installed.
"""
from importlib.util import find_spec

from .version import __version__

__all__ = [
    'AICSDHook', 'AttnFDHook', 'CIRKDHook', 'CWDHook', 'CombinedTeacher',
    'ConfigError', 'CrossKDHook', 'DISTHook', 'DistillHook',
    'DistillVisualizationHook', 'EMATeacher', 'FGDHook', 'FRSKDHook',
    'FitNetsHook', 'FrozenTeacher', 'ICSDHook', 'IFVDHook', 'KADTDHook',
    'LDHook', 'MGDHook', 'MixSKDHook', 'MixTeacher', 'ModelTeacher', 'NFDHook',
    'PKDHook', 'SKDHook', 'SRDHook', 'SelfTeacher', 'SnapshotTeacher',
    'StudentAsTeacher', 'TFDHook', 'TimmTeacher', 'TransformersTeacher',
    '__version__', 'register_head', 'register_host'
]

if find_spec('mmengine') is None:

    def __getattr__(name: str) -> None:
        if name not in __all__:
            raise AttributeError(f'mmselfkd has no {name!r}')
        raise ImportError(
            f'mmselfkd.{name} needs mmengine, which is not installed (pip '
            'install onedl-mmengine, or mmengine); mmselfkd.losses needs '
            'torch alone')

else:
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import is_installed

    from .errors import ConfigError
    from .hooks import (
        AICSDHook,
        AttnFDHook,
        CIRKDHook,
        CrossKDHook,
        CWDHook,
        DISTHook,
        DistillHook,
        DistillVisualizationHook,
        FGDHook,
        FitNetsHook,
        FRSKDHook,
        ICSDHook,
        IFVDHook,
        KADTDHook,
        LDHook,
        MGDHook,
        MixSKDHook,
        NFDHook,
        PKDHook,
        SKDHook,
        SRDHook,
        TFDHook,
    )
    from .hosts import register_head, register_host
    from .teachers import (
        CombinedTeacher,
        EMATeacher,
        FrozenTeacher,
        MixTeacher,
        ModelTeacher,
        SelfTeacher,
        SnapshotTeacher,
        StudentAsTeacher,
        TimmTeacher,
        TransformersTeacher,
    )

    # lets `mmselfkd::nfd/<config>.py` resolve as `mmseg::...` does
    MODULE2PACKAGE.setdefault('mmselfkd', 'mmselfkd')
    # and `mmseg::...` where mmseg comes from another distribution than the
    # one mmengine knows
    if not is_installed('mmsegmentation') and is_installed('mmseg'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'
