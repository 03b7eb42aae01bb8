_base_ = './efficientnet-b0-bifpn_8xb2-60e_voc0712-512x512.py'
model = dict(
    backbone=dict(
        arch='b2',
        init_cfg=dict(
            checkpoint='https://download.openmmlab.com/mmclassification/v0/efficientnet/efficientnet-b2_3rdparty_8xb32-aa_in1k_20220119-dd61e80b.pth')),  # noqa: E501
    neck=dict(in_channels=[24, 48, 120, 352], out_channels=112),
    decode_head=dict(in_channels=112))
