# An untrained teacher: what a step costs does not depend on the weights
_base_ = [
    '../../../configs/_base_/pairs/fpn_r18-w48-w16_1xb8-1k_camvid-120x160.py'
]
teacher = dict(checkpoint='random')
