"""Stands in for mmcv's compiled operators, as ``mmcv/_ext.py``.

mmcv-lite has none, yet mmseg and mmdet import the functions around them. They
can be imported with this module; a call fails.
"""


def __getattr__(name):
    if name.startswith('__'):
        raise AttributeError(name)

    def operator(*args, **kwargs):
        raise NotImplementedError(f'mmcv-lite has no operator {name}')

    return operator
