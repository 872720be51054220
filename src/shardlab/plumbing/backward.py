"""One backward over the tensors of several shards at once."""

from contextlib import contextmanager

import torch
from torch.autograd.graph import _engine_run_backward

under_way = 0  # joint backwards that run now (of no thread alone: autograd has one for each CUDA device)


@contextmanager
def joint():
    """Inside, a backward starts from all the shards at once, as every rank's does from its own."""
    global under_way
    under_way += 1
    try:
        yield
    finally:
        under_way -= 1


def run_backward(tensors, gradients, *args, **options):
    """torch.autograd.backward(…), straight to its engine where it only would compare shapes and dtypes first: it is
    made for symbolic shapes too, and takes longer over each shard than a small product does."""
    with joint():
        if args or options or gradients is None or not all(map(fits, tensors, gradients)):
            torch.autograd.backward(tensors, gradients and apart(gradients), *args, **options)
        else:
            roots, gradients = tuple(tensors), tuple(apart(gradients))
            _engine_run_backward(roots, gradients, False, False, (), allow_unreachable=True, accumulate_grad=True)


def refuse_half_a_backward(collective, shards, grads):
    """RuntimeError unless the backward of a collective, all of whose shards are here, is that of all of them.

    Over ranks each of them goes back from its own loss. Here a loss that is made of one shard's tensor would send a
    gradient to that shard alone, and one of all shards' tensors (their mean, say) another one than ranks get.
    """
    missing = [shard for shard, grad in zip(shards, grads, strict=True) if grad is None]
    if missing:
        names = f"shard{'s'[: len(missing) - 1]} {', '.join(map(str, missing))}"
        raise RuntimeError(
            f"backward of {collective}: no gradient came back to {names}, only to the others: the loss was made of "
            "some shards' tensors, such as y_.shards[0]. Over ranks each has a loss of its own. Stay with the Shards: "
            "loss_ = (y_ - mesh.replicate(target)).pow(2).mean(), and then loss_.backward()"
        )
    if not under_way:
        raise RuntimeError(
            f"backward of {collective}: it began at a plain tensor, made of several shards' tensors as "
            "torch.stack(loss_.shards).mean() is. A rank has one of them, and would get another gradient from the same "
            "line. Begin at the Shards, whose shards are equal, with no sum or mean over them: loss_.backward()"
        )


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


def leaves(inputs):
    """The tensors of Shards, and plain tensors as they are: a layer's parameters are its shards, one by one."""
    return [tensor for one in inputs for tensor in getattr(one, "shards", [one])]


def listed(values):
    return [values] if hasattr(values, "shards") or isinstance(values, torch.Tensor) else list(values)


def hooked(register, x_, hook):
    """A hook on each shard's own tensor, which it is called with, as on a rank."""
    return Handles(register(tensor, hook) for tensor in x_.shards)


class Handles(list):
    """The hooks of a Shards' tensors, to be removed together."""

    def remove(self):
        for handle in self:
            handle.remove()


def refuse_without_history(tensors):
    """torch's own error here speaks of an 'element 0'."""
    if not any(tensor.requires_grad for tensor in tensors):
        raise RuntimeError(
            "there is nothing to go back through: this Shards was computed from none that requires grad, or within "
            "no_grad, or within checkpoint(…, use_reentrant=True), which sees no Shards (use_reentrant=False does)"
        )
