"""How a tensor travels: as its bytes. Where tensors of one parcel share memory, they share it at their destination."""

from itertools import pairwise

import torch
from torch.nn import Parameter

ALIGNED = 16  # bytes: a multiple of every dtype's size


def reduce(tensor, memory):
    """What pickle wants to know of a tensor; its `.grad` goes with it."""
    if tensor.is_quantized:
        raise TypeError("a quantized tensor stays in its process: send x.dequantize(), or x.int_repr() and its scale")
    part = memory.part(tensor) or (dense, in_order(tensor))
    grad = tensor.grad if tensor.is_leaf else None
    return arrive, (*part, tensor.requires_grad, grad, type(tensor) is Parameter, vars(tensor))


def in_order(tensor):
    """(its bytes, dtype, shape), one element after the other."""
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    flat = flat.as_strided([flat.numel()], [1])  # a view would keep a stride that one element need not obey
    return flat.view(torch.uint8).numpy().tobytes(), tensor.dtype, tensor.shape


class Memory:
    """The memory that the tensors of a parcel lie in: which bytes of each storage are somebody's.

    Whether any are those of two tensors is known once all have been seen; what `shared` then says, is sent once.
    """

    def __init__(self, shared):
        self.shared, self.spans, self.sent = shared, {}, {}

    def part(self, tensor):
        """A tensor as a part of memory that it shares; None if it is alone there, as far as is known."""
        place, (low, high) = tensor.untyped_storage().data_ptr(), span(tensor)
        if place not in self.shared or low == high:
            self.spans.setdefault(place, []).append((low, high))
            return None
        start, end = self.shared[place]
        if place not in self.sent:
            storage = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
            self.sent[place] = bytearray(storage[start:end].cpu().numpy().tobytes())
        offset = (low - start) // tensor.element_size()
        how = tensor.dtype, tensor.shape, tensor.stride(), offset, tensor.is_conj(), tensor.is_neg()
        return view, (self.sent[place], *how)

    def overlaps(self):
        """{a storage in which two tensors overlap: the bytes that all the tensors in it span}"""
        found = {}
        for place, spans in self.spans.items():
            spans = sorted(one for one in spans if one[0] < one[1])
            if any(high > low for (_, high), (low, _) in pairwise(spans)):
                found[place] = spans[0][0] // ALIGNED * ALIGNED, max(high for _, high in spans)
        return found


def span(tensor):
    """From which byte of its storage to which a tensor reaches."""
    if not tensor.numel():
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    low = tensor.storage_offset() * tensor.element_size()
    return low, low + (last + 1) * tensor.element_size()


# at the destination


def arrive(make, what, requires_grad, grad, is_parameter, attributes):
    values = make(*what)
    values = Parameter(values, requires_grad) if is_parameter else values.requires_grad_(requires_grad)
    values.grad = grad
    vars(values).update(attributes)
    return values


def dense(data, dtype, shape):
    values = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return values.reshape(shape)


def view(memory, dtype, shape, strides, offset, is_conj, is_neg):
    storage = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    values = torch.empty(0, dtype=dtype).set_(storage, offset, shape, strides)
    values = values.conj() if is_conj else values
    return torch._neg_view(values) if is_neg else values
