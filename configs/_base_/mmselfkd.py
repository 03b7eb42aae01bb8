# First among the bases: mmengine reads them in order, so this project is
# registered before `mmseg::...` is resolved. With onedl-mmsegmentation, whose
# name mmengine does not know, the stock train.py needs that. No import
# statement: to mmengine 0.10.7 even importlib makes a config a lazy one.
__import__('mmselfkd')
custom_imports = dict(imports=['mmselfkd'], allow_failed_imports=False)
