"""Sums of whole numbers that do not fit: an error, where torch, gloo and nccl would say nothing."""

import torch


def refuse_overflow(group, collective, parts):
    """A sum of whole numbers that does not fit is an error: torch, gloo and nccl would wrap it round."""
    dtype = parts[0].dtype
    if dtype.is_floating_point or dtype.is_complex or not parts[0].numel() or parts[0].is_meta:
        return
    least, most, ends = torch.iinfo(dtype).min, torch.iinfo(dtype).max, group.ends(parts)
    if sum(ends[::2]) >= least and sum(ends[1::2]) <= most:
        return  # whatever meets what
    unit = 2**32 if dtype == torch.int64 else 1  # nothing is wider than int64: sum its upper half, and what carries
    total = group.total([part.to(torch.int64) // unit for part in parts])
    if unit > 1:
        total += group.total([part % unit for part in parts]) // unit
    for extreme in total.aminmax():
        if not least // unit <= extreme.item() <= most // unit:
            reached = extreme.item() if unit == 1 else f"about {extreme.item() * unit:.3g}"
            raise OverflowError(
                f"{collective}: the sum reaches {reached}, and {dtype} holds {least} to {most} only. "
                "Sum wider numbers, such as x_.long()"
            )
