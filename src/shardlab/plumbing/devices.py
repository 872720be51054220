"""Which device each shard lives on."""

import os

import torch


def deal(devices, ranks, local):
    """A device for each shard held here, in turn."""
    if devices is None:
        named = os.environ.get("SHARDLAB_DEVICES")
        count = torch.cuda.device_count()
        devices = named.split(",") if named else [f"cuda:{i}" for i in range(count)] if count else ["cpu"]
    if isinstance(devices, (str, torch.device)):
        devices = [devices]
    devices = [torch.device(device.strip() if isinstance(device, str) else device) for device in devices]
    if not devices:
        raise ValueError("a mesh wants at least one device, such as devices=['cpu']")
    for device in devices:
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise RuntimeError(
                f"{device} was asked for, but this machine shows torch {torch.cuda.device_count()} CUDA devices; "
                "devices=['cpu'], or SHARDLAB_DEVICES=cpu, runs all shards on the CPU"
            )
    names = {"cpu": torch.device("cpu"), "cuda": torch.device("cuda", 0)}  # one name for each place
    devices = [names.get(device.type, device) if not device.index else device for device in devices]
    if local:
        ranks = [int(os.environ.get("LOCAL_RANK", ranks[0]))]
    return [devices[rank % len(devices)] for rank in ranks]


def each_its_gpu(devices):
    """Has each of these shards a CUDA device of its own?"""
    return len(set(devices)) == len(devices) and all(device.type == "cuda" for device in devices)
