# SegFormer on ADE20K: MiT-B4 teaches MiT-B0
_base_ = [
    '../mmselfkd.py',
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
]
teacher = dict(
    config='mmseg::segformer/segformer_mit-b4_8xb2-160k_ade20k-512x512.py',
    checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/segformer/segformer_mit-b4_512x512_160k_ade20k/segformer_mit-b4_512x512_160k_ade20k_20210728_183055-7f509d7d.pth')  # noqa: E501
