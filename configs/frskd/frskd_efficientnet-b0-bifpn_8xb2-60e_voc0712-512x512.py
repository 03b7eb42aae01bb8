# The self-teacher of FRSKD's segmentation code: two BiFPN layers of the width
# of the student's neck, and a head like the student's. The ramp of epochs 40
# to 60, where the run has 60
_base_ = '../voc0712/efficientnet-b0-bifpn_8xb2-60e_voc0712-512x512.py'
ramp = dict(type='ExponentialRamp', begin=2 / 3, by_epoch=True)
custom_hooks = [
    dict(
        type='mmselfkd.FRSKDHook',
        teacher=dict(
            type='SelfTeacher',
            source='neck',
            neck=dict(
                type='BiFPN',
                width=1,
                num_layers=2,
                num_convs=1,
                last='top_down',
                relu_inputs=False,
                norm_cfg=dict(type='SyncBN', requires_grad=True)),
            head=dict(
                type='FCNHead',
                in_index=0,
                channels=256,
                num_convs=1,
                concat_input=False,
                dropout_ratio=0)),
        # the official form, on the official pyramid
        losses=dict(
            loss_at=dict(
                reduction='mean',
                level_reduction='sum',
                loss_weight=50.0,
                schedule=ramp),
            loss_kd=dict(schedule=ramp)))
]
