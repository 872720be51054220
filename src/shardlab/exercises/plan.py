"""Lesson 13: a plan for `parallelize_module` under which PyTorch moves what our own layers move, and no more."""

from fnmatch import fnmatch

import torch
from torch import nn
from torch.nn.functional import gelu

from shardlab.exercises.exercise import Mistake, Wrong
from shardlab.exercises.numbers import close, worst
from shardlab.exercises.real_ranks import OnRanks, normal, told
from shardlab.layers import ColumnParallelLinear, RowParallelLinear

WIDTHS = (8, 16, 6)
LAYERS = ("up", "down")


class Block(nn.Module):
    """down(gelu(up(x))), two dense layers in float64."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(*WIDTHS[:2], dtype=torch.float64)
        self.down = nn.Linear(*WIDTHS[1:], dtype=torch.float64)

    def forward(self, x):
        return self.down(gelu(self.up(x)))


class DtensorPlan(OnRanks):
    """The plan is carried out on real ranks; values, gradients, weights and collectives are held against our layers."""

    takes = ("plan",)
    mistakes = [
        Mistake(
            "no such layer",
            "parallelize_module only warns of a name that it does not find, and leaves the layer whole.",
        ),
        Mistake(
            "a class for a style",
            "A plan holds styles, which are made by a call: ColwiseParallel(), with brackets.",
        ),
        Mistake("not a style", "A plan says for each layer how it is split: ColwiseParallel() or RowwiseParallel()."),
        Mistake(
            "layers exchanged",
            "A row split first wants its input cut already, and a column split last leaves the output cut: column "
            "first, row after it, and what one leaves the other takes, without communication between them.",
        ),
        Mistake(
            "both column-wise",
            "Up leaves its output in columns, one piece per rank. A second column split wants all of it on every "
            "rank; a row split takes the pieces as they are.",
        ),
        Mistake(
            "both row-wise",
            "A row split wants its input cut by columns, and x is whole: begin with the split by columns.",
        ),
        Mistake(
            "a layer left out",
            "The layer that the plan does not name stays whole on every rank: it saves no memory, and its input is "
            "not cut as it would have to be.",
        ),
        Mistake(
            "an extra gather",
            "Between the layers the columns are gathered, only to be cut again: gelu works on each column alone, "
            "and the row split takes the columns as they are.",
        ),
        Mistake(
            "sequence parallel",
            "SequenceParallel is for what lies between the split layers, such as a norm: it cuts x along the sequence, "
            "and leaves the weights whole.",
        ),
        Mistake("no reduction", "Each rank keeps its own partial sum, since the output is left `Partial()`."),
        Mistake("only a slice of the output", "The output is left cut (`Shard`), and every rank wants all of it."),
        Mistake("input taken for a shard", "x is the same on every rank, and the plan takes it for a piece of x."),
    ]

    def __init__(self):
        up, down = (f"nn.Linear({i}, {o})" for i, o in zip(WIDTHS, WIDTHS[1:], strict=False))
        super().__init__(
            "dtensor_plan",
            "A plan for torch's parallelize_module: the block down(gelu(up(x))), with the least communication.",
            given=[f"up: {up}, down: {down}, the names of the block's layers", "x: the same on every rank"],
            wanted="a dict from names of layers to styles of torch.distributed.tensor.parallel, with which every rank "
            "ends with all of y, by the collectives of a ColumnParallelLinear and a RowParallelLinear",
        )

    def signature(self):
        return "{…}"

    def unsolved(self, answer=None):
        wrong = super().unsolved()
        wrong.message = "Give each of the layers 'up' and 'down' a style, as in {'up': …, 'down': …}, and check again."
        return wrong

    @staticmethod
    def prepare(mesh):
        import torch.distributed.tensor.debug
        import torch.distributed.tensor.parallel  # noqa: F401

    def inspect(self, answer=None):
        styles = self.styles(answer)
        random = normal()
        x, cotangent = random(5, WIDTHS[0]), random(5, WIDTHS[-1])
        state = {name: random(*parameter.shape) for name, parameter in shapes().named_parameters()}
        want = dense(x, state, cotangent)
        ranks = self.try_on_ranks(trial, answer, x, state, cotangent)
        ours = ranks[0]["ours"]
        for rank, seen in enumerate(ranks):
            if found := look(rank, len(ranks), seen, want):
                name = habit(styles, seen) or found[0]
                recorded = f"Recorded: {said(seen)}; our layers: {said(ours)}."
                why = next((f"{mistake.why} " for mistake in self.mistakes if mistake.name == name), "")
                raise Wrong(name, f"{why}{found[1]} {recorded}")
        counted = f"forward {told(ours['forward'])}, backward {told(ours['backward'])}"
        return f"Right on {len(ranks)} ranks: y, every gradient, and the collectives of our own layers: {counted}."

    def styles(self, plan):
        """The style of each layer that the plan finds; `Wrong` if it is none that torch would carry out."""
        if plan is None or plan is Ellipsis:
            raise self.unsolved()
        if not isinstance(plan, dict):
            example = "such as {'up': ColwiseParallel(), …}"
            raise Wrong("not a plan", f"A dict is wanted, {example}, and this is a {type(plan).__name__}.")
        if not plan or any(style is None or style is Ellipsis for style in plan.values()):
            raise self.unsolved()
        from torch.distributed.tensor.parallel import ParallelStyle  # slow to import

        known = {mistake.name: mistake.why for mistake in self.mistakes}
        for name, style in plan.items():
            if not isinstance(name, str):
                raise Wrong("not a plan", f"The names of layers are strings, and {type(name).__name__} is none.")
            if not any(fnmatch(layer, name) for layer in LAYERS):
                there = f"{name!r} is none of 'up' and 'down', the 2 layers of this block."
                raise Wrong("no such layer", f"{known['no such layer']} {there}")
            if isinstance(style, type):
                raise Wrong("a class for a style", f"{known['a class for a style']} {name!r} has the class alone.")
            if not isinstance(style, ParallelStyle):
                raise Wrong("not a style", f"{known['not a style']} {name!r} has a {type(style).__name__}.")
        return {layer: style for layer in LAYERS for name, style in plan.items() if fnmatch(layer, name)}


def trial(mesh, plan, x, state, cotangent):
    """In a rank: the block under this plan, and by our own layers."""
    from torch.distributed import init_device_mesh
    from torch.distributed.tensor.debug import CommDebugMode
    from torch.distributed.tensor.parallel import parallelize_module

    device = mesh.devices[0]
    block = loaded(state, device)
    seen = {"ours": by_our_layers(mesh, block, x, cotangent), "forward": [], "backward": []}
    x = x.to(device).requires_grad_()
    try:
        parallelize_module(block, init_device_mesh(device.type, (mesh.size,)), plan)
        held = dict(block.named_parameters())
        seen["held"] = sum(local(parameter).numel() for parameter in held.values())
        with CommDebugMode() as forward:
            y = block(x)
            y = y if placed(y, "Partial", "Shard") else whole(y)
        seen |= {"forward": names(forward), "y": local(y).detach().clone().cpu()}
        if seen["y"].shape == cotangent.shape:
            with CommDebugMode() as backward:
                y.backward(cotangent.to(device))
            seen["backward"] = names(backward)
            grads = {name: parameter.grad for name, parameter in held.items()} | {"x": x.grad}
            seen["grads"] = {name: grad if grad is None else whole(grad).cpu() for name, grad in grads.items()}
    except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
        seen["error"] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.200}"
    return seen


def by_our_layers(mesh, block, x, cotangent):
    """The same block by column and row: what it records, forward and backward, and how many numbers a rank holds."""
    up, down = ColumnParallelLinear(block.up, mesh), RowParallelLinear(block.down, mesh)
    with mesh.record() as traffic:
        y_ = down(gelu(up(mesh.replicate(x.clone().requires_grad_()))))
        y_.backward(mesh.replicate(cotangent))
    phases = {phase: [call.name for call in traffic if call.phase == phase] for phase in ("forward", "backward")}
    return phases | {"held": sum(parameter.numel() for layer in (up, down) for parameter in layer.parameters())}


def loaded(state, device):
    block = shapes()
    block.load_state_dict({name: tensor.detach().clone().to(device) for name, tensor in state.items()}, assign=True)
    return block


def shapes():
    """The block without numbers, and so without drawing any."""
    with torch.device("meta"):
        return Block()


def dense(x, state, cotangent):
    """y and every gradient of the whole block."""
    block, x = loaded(state, "cpu"), x.clone().requires_grad_()
    y = block(x)
    y.backward(cotangent)
    return y.detach(), {name: parameter.grad for name, parameter in block.named_parameters()} | {"x": x.grad}


def names(counted):
    """The collectives that a CommDebugMode has counted."""
    counts = counted.get_comm_counts()
    short = {"all_gather_into_tensor": "all_gather", "reduce_scatter_tensor": "reduce_scatter"}
    found = [(str(call).rsplit(".", 1)[-1], count) for call, count in counts.items()]
    return [name for call, count in sorted(found) for name in [short.get(call, call)] * count]


def placed(tensor, *kinds):
    """Whether a DTensor has one of these placements."""
    return any(type(placement).__name__ in kinds for placement in getattr(tensor, "placements", ()))


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def look(rank, n, seen, want):
    """The first thing that is wrong on one rank, as (mistake, numbers), or None."""
    where = f"On rank {rank} of {n}"
    if "error" in seen:
        return "an error", f"{where} it ends in {seen['error'].rstrip('.')}."
    y, grads = want
    if seen["y"].shape != y.shape:
        return "wrong shape", f"{where} y is {list(seen['y'].shape)}, and {list(y.shape)} is wanted."
    if not close(seen["y"], y):
        return None, f"{where} y {worst(seen['y'], y)}."
    for name, grad in grads.items():
        if seen["grads"][name] is None:
            return "no gradient", f"{where} y is right, but no gradient arrives in {name}."
        if not close(seen["grads"][name], grad):
            return None, f"{where} y is right, but the gradient of {name} {worst(seen['grads'][name], grad)}."
    ours = seen["ours"]
    if seen["held"] != ours["held"]:
        numbers = f"it holds {seen['held']} numbers, and our layers hold {ours['held']}."
        return "not sharded", f"{where} the values are right, but {numbers}"
    if any(sorted(seen[phase]) != sorted(ours[phase]) for phase in ("forward", "backward")):
        return "extra communication", f"{where} the values are right, by other collectives than needed."


def habit(styles, seen):
    """The name of the mistake in a plan that does not do, by what it says of each layer; None if none is known."""
    if len(styles) < len(LAYERS):
        return "a layer left out"
    kinds = [style_of(styles[layer]) for layer in LAYERS]
    if "sequence" in kinds:
        return "sequence parallel"
    if kinds != ["column", "row"]:
        known = {"row column": "layers exchanged", "column column": "both column-wise", "row row": "both row-wise"}
        return known.get(" ".join(kinds))
    up, down = (styles[layer] for layer in LAYERS)
    if not layout(up, "input", "Replicate"):
        return "input taken for a shard"
    if layout(up, "output", "Replicate") or "all_gather" in seen["forward"] and layout(down, "output", "Replicate"):
        return "an extra gather"
    if layout(down, "output", "Partial"):
        return "no reduction"
    return "only a slice of the output" if layout(down, "output", "Shard") else None


def style_of(style):
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel

    kinds = {"column": ColwiseParallel, "row": RowwiseParallel, "sequence": SequenceParallel}
    return next((name for name, kind in kinds.items() if isinstance(style, kind)), "another")


def layout(style, side, kind):
    """Whether a style says that its "input" or "output" is placed so."""
    return type(getattr(style, f"{side}_layouts")[0]).__name__.endswith(kind)


def said(seen):
    moved = f"forward {told(seen['forward'])}, backward {told(seen['backward'])}"
    return moved + (f", {seen['held']} numbers held by a rank" if "held" in seen else "")
