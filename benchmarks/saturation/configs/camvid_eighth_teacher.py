# every eighth image of train
_base_ = './camvid_teacher.py'
train_dataloader = dict(dataset=dict(indices=[*range(0, 367, 8)]))
