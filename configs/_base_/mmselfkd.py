# First among the bases: mmengine reads them in order, so this project is
# registered before `mmseg::...` is resolved. With onedl-mmsegmentation, whose
# name mmengine does not know, the stock train.py needs that.
import importlib

importlib.import_module('mmselfkd')
custom_imports = dict(imports=['mmselfkd'], allow_failed_imports=False)
