"""One backward over the tensors of several shards at once."""

import torch
from torch.autograd.graph import _engine_run_backward


def run_backward(tensors, gradients, *args, **options):
    """torch.autograd.backward(…), straight to its engine where it only would compare shapes and dtypes first: it is
    made for symbolic shapes too, and takes longer over each shard than a small product does."""
    if args or options or gradients is None or not all(map(fits, tensors, gradients)):
        torch.autograd.backward(tensors, gradients and apart(gradients), *args, **options)
    else:
        gradients = tuple(apart(gradients))
        _engine_run_backward(tuple(tensors), gradients, False, False, (), allow_unreachable=True, accumulate_grad=True)


def fits(tensor, gradient):
    return type(gradient) is torch.Tensor and gradient.shape == tensor.shape and gradient.dtype is tensor.dtype


def apart(tensors):
    """The same tensors, where each has memory of its own: what becomes a `.grad` will be written into."""
    if len(tensors) == 1:
        return tensors
    seen, owned = set(), []
    for tensor in tensors:
        place = isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr()
        owned.append(tensor.clone() if place in seen and place else tensor)
        seen.add(place)
    return owned
