"""`python -m shardlab`: the devices of this machine, and how a mesh deals its shards over them."""

import torch

from shardlab import Mesh


def name_of(device):
    if device.type != "cuda":
        return f"{torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def main():
    gpus = torch.cuda.device_count()
    print(f"torch {torch.__version__}; CUDA devices: {gpus or 'none, so all shards live on the CPU'}")
    mesh = Mesh() if torch.distributed.is_torchelastic_launched() else Mesh(max(gpus, 2))
    for rank, device in zip(mesh.ranks, mesh.devices, strict=True):
        print(f"shard {rank} on {device} ({name_of(device)})")


if __name__ == "__main__":
    main()
