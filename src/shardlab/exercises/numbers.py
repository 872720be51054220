"""Numbers that are held against each other, and the difference in words."""

import math

import torch


def close(a, b):
    """Equal up to float64 rounding: nine digits of the largest number here."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.numel() == 0 or not (a.is_floating_point() or a.is_complex()):
        return torch.equal(a, b)
    error = (a - b).abs().max().item()
    if math.isfinite(error):
        return error <= 1e-9 * max(1.0, b.abs().max().item())
    return torch.allclose(a, b, rtol=0, atol=1e-9, equal_nan=True)


def all_close(some, others):
    return len(some) == len(others) and all(
        a is b or (a is not None and b is not None and close(a, b)) for a, b in zip(some, others, strict=True)
    )


def rounded(got, want):
    """Is this the wanted value, but for a dtype on the way that holds fewer digits?"""
    error, size = (got - want).abs().max().item(), max(1e-300, want.abs().max().item())
    short = got.is_floating_point() and torch.equal(got.float().to(got.dtype), got)
    return error <= (0.05 if short else 1e-5) * size


def worst(got, want):
    """The place where the difference is largest, in words.

    >>> worst(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    'has 2 at [1] where 4 is wanted (the largest difference)'
    """
    if got.shape != want.shape:
        return f"is {list(got.shape)} where {list(want.shape)} is wanted"
    error = (got - want).abs()
    index = [int(i) for i in torch.unravel_index(error.argmax(), got.shape)]
    pair = [x[tuple(index)].item() for x in (got, want)]
    digits = next(d for d in (4, 8, 12, 17) if d == 17 or f"{pair[0]:.{d}g}" != f"{pair[1]:.{d}g}")
    here, there = (f"{x:.{digits}g}" for x in pair)
    return f"has {here} at {index} where {there} is wanted (the largest difference)"
