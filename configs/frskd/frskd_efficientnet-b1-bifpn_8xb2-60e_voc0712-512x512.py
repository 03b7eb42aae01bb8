_base_ = [
    '../voc0712/efficientnet-b1-bifpn_8xb2-60e_voc0712-512x512.py',
    '../_base_/hooks/frskd_bifpn.py'
]
