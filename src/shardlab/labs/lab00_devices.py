"""Lab 00: which shard lives on which device, as this machine has it or as a machine with more would."""

import torch

from shardlab import Mesh
from shardlab.labs.lab import HTML, Lab, menu, said, slider
from shardlab.pictures import draw

GPUS, MOST = [1, 2, 4, 8], 16  # numbers of GPUs, and of shards at most
CHOICES = [("this machine", 0), *((f"{gpus} GPU{'s' * (gpus > 1)}", gpus) for gpus in GPUS)]


def devices_result(shards=4, gpus=0):
    """The device of each shard, in rank order, and whether that is real: (["cpu", …], True).

    `gpus=0` is this machine: a mesh is made, a value placed, and each shard asked where it is. Another number is a
    machine with that many GPUs: real too where this one has them, else a plan by the same rule (in turn).
    """
    if gpus > torch.cuda.device_count():
        return [f"cuda:{rank % gpus}" for rank in range(shards)], False
    mesh = Mesh(shards, devices=[f"cuda:{index}" for index in range(gpus)] or None)
    x_ = mesh.replicate(torch.zeros(1))
    return [str(tensor.device) for tensor in x_.shards], True


def draw_devices(shards, gpus):
    """The picture of a state of this lab, as HTML."""
    devices, real = devices_result(shards, gpus)
    return verdict(devices, real, gpus) + draw.deal(devices, room=devices_result(MOST, gpus)[0])


def verdict(devices, real, gpus):
    used = len(dict.fromkeys(devices))
    each = [devices.count(device) for device in dict.fromkeys(devices)]
    how = f"{len(devices)} shard{'s' * (len(devices) > 1)} on {used} device{'s' * (used > 1)}"
    if used > 1:
        how += f", {each[0]} on each" if min(each) == max(each) else f", {max(each)} on some and {min(each)} on others"
    how += "."
    if gpus > used:
        how += f" {gpus - used} of the {gpus} GPUs stand idle."
    if real:
        return said(True, "Real:", f"each shard was asked where it is. {how}")
    has = torch.cuda.device_count()
    here = f"this machine has {has or 'no'} GPU{'s' * (has != 1)}"
    return said(None, "A plan, not real:", f"{here}; on one with {gpus} the shards would go there in turn. {how}")


def devices_picture(shards=4, gpus=0):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_devices(shards, gpus))


def devices(shards=4, gpus=0):
    """The lab of lesson 00: deal shards over the devices of this machine, or over more."""
    controls = {
        "shards": slider("shards", shards, 1, MOST, "how many shards the mesh has"),
        "gpus": menu("devices", gpus, CHOICES, "those that are here, or a number of GPUs"),
    }
    return Lab(controls, draw_devices)
