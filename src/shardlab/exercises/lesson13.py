"""Lesson 13: PyTorch's own tensor parallelism on real ranks: a DTensor plan, and g from torch.distributed alone."""

from shardlab.exercises.plan import DtensorPlan
from shardlab.exercises.region import ReduceFromRegion

dtensor_plan = DtensorPlan()
reduce_from_region = ReduceFromRegion()
