# The student alone; the configs beside this one teach it
_base_ = './pairs/{{$PAIR:camvid}}.py'
