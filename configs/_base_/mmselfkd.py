# First among the bases of a config: registers this project before the hosts'
# configs are read, so `mmseg::` resolves with every distribution of mmseg.
import importlib

importlib.import_module('mmselfkd')
custom_imports = dict(imports=['mmselfkd'], allow_failed_imports=False)
