"""What every rank of tests/ranks/test_ranks.py runs, and one process beside it: the same functions, the same code.

    torchrun --nproc-per-node 4 tests/ranks/ranks_program.py FOLDER page      each rank leaves FOLDER/rank<r>.pt

With `wire` for `page` the ranks share no memory to compare what they do, as on several hosts.

A check takes the number of shards and returns the values to compare. `observe` runs it under `mesh.record()`.
"""

import os
import sys
from functools import cache, partial
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy, gelu

from shardlab import Mesh, Shards, exercises
from shardlab.compare import compare
from shardlab.layers import ColumnParallelLinear, RowParallelLinear
from shardlab.plumbing import agreement, board

FLOAT, WHOLE = torch.float64, torch.int64


@cache  # a mesh with axes starts process groups: once is enough
def mesh_of(**axes):
    return Mesh(**axes, devices=None if dist.is_initialized() else ["cpu"])


def held(tensors, mesh):
    """A Shards of these tensors, each at its place."""
    placed = zip(tensors, mesh.devices, strict=True)
    return Shards([tensor.detach().to(d).requires_grad_(tensor.requires_grad) for tensor, d in placed], mesh)


def random(*shape, seed=0, dtype=FLOAT):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64).mul(4)
    return (values.abs() if dtype is torch.uint8 else values).to(dtype)  # the sum of 4 fits into a byte


# the collectives

SIZES = {"even": (4, 4, 4, 4), "uneven": (3, 1, 5, 2), "empty": (2, 0, 3, 0)}  # of the pieces that are joined
CUT = {"even": 8, "uneven": 7, "empty": 1}  # the size of the dim that is cut

COLLECTIVES = {
    "copy": lambda view, x_: view.copy(x_),
    "all_reduce": lambda view, x_: view.all_reduce(x_),
    "all_gather": lambda view, x_: view.all_gather(x_, dim=1),
    "all_gather_partial": lambda view, x_: view.all_gather(x_, dim=-2, grad="partial"),
    "scatter": lambda view, x_: view.scatter(x_, dim=0),
    "reduce_scatter": lambda view, x_: view.reduce_scatter(x_, dim=1),
    "all_to_all": lambda view, x_: view.all_to_all(x_, split_dim=0, concat_dim=1),
    "broadcast": lambda view, x_: view.broadcast(x_, src=view.size - 1),
    "shift": lambda view, x_: view.shift(x_),
    "shift_back": lambda view, x_: view.shift(x_, by=-1 - 2 * view.size),
}


def parts(mesh, view, name, kind, dtype):
    """The input of a collective: a tensor for each shard, or one value on all the shards of a group."""
    parts = []
    for rank in mesh.ranks:
        index = view.index(rank)
        piece, cut = SIZES[kind][index], CUT[kind]
        seed = rank + 1
        if name in ("copy", "scatter"):
            seed = 100 + rank - index * stride(mesh, view)  # the same along the axis
        shape = {"all_gather": (2, piece), "all_gather_partial": (piece, 2), "all_to_all": (cut, piece)}
        shape |= {"shift": (2, piece), "shift_back": (piece, 2 + index)}
        shape = shape.get(name, (cut, 3) if name == "scatter" else (3, cut))
        part = random(*shape, seed=seed, dtype=dtype)
        parts.append(part.mT.contiguous().mT if kind == "uneven" else part)  # not in the order of memory
    return parts


def stride(mesh, view):
    """How far apart neighbours along the axis are in the whole mesh: the last axis runs fastest."""
    if view.along == tuple(mesh.axes):
        return 1
    lengths = list(mesh.axes.values())
    return torch.tensor(lengths[list(mesh.axes).index(view.along[0]) + 1 :]).prod().int().item()


def collective(n, name, kind, axis=None, dtype=FLOAT):
    mesh = mesh_of(tp=n) if axis is None else mesh_of(dp=2, tp=n // 2)
    view = mesh[axis] if axis in ("dp", "tp") else mesh
    x_ = held(parts(mesh, view, name, kind, dtype), mesh)
    if not dtype.is_floating_point:
        return {"y": COLLECTIVES[name](view, x_), "x, which is left alone": x_}
    y_ = COLLECTIVES[name](view, x_.requires_grad_())
    replicated = name in ("all_reduce", "all_gather")  # then what follows is the same on every shard of the group
    seeds = [200 + (rank - view.index(rank) * stride(mesh, view) if replicated else rank) for rank in mesh.ranks]
    cotangents = [random(*y.shape, seed=seed, dtype=dtype) for y, seed in zip(y_.shards, seeds, strict=True)]
    y_.backward(held(cotangents, mesh))
    return {"y": y_, "x.grad": x_.grad, "x, which is left alone": x_}


def maximum(n, dtype):
    mesh = mesh_of(tp=n)
    x_ = held([random(3, 2, seed=rank, dtype=dtype) for rank in mesh.ranks], mesh)
    return {"y": mesh.all_reduce(x_, op="max"), "x, which is left alone": x_}


def conjugated(n):
    mesh = mesh_of(tp=n)
    x_ = held([torch.complex(random(3, 2, seed=rank), random(3, 2, seed=50 + rank)) for rank in mesh.ranks], mesh)
    negative_ = x_.conj().imag[:1, :1]  # torch keeps the sign as a mark on it
    values = {"y": mesh.all_reduce(x_.conj()), "z": mesh.all_gather(x_.conj(), dim=0), "shift": mesh.shift(x_.conj())}
    return values | {"negative": mesh.all_gather(negative_, dim=0), "shift negative": mesh.shift(negative_)}


def shifted(n, by):
    """`by` places on, of values whose number of dims is each shard's own."""
    mesh = mesh_of(tp=n)
    x_ = held([random(*range(2, 3 + rank % 3), seed=rank) for rank in mesh.ranks], mesh)
    return {"y": mesh.shift(x_, by=by), "x, which is left alone": x_}


def donated(n):
    """The same sum and gradient, in whosever memory the sum is; of a tensor that does not lie in order."""
    mesh = mesh_of(tp=n)
    x_ = held([random(3, 4, seed=rank).T for rank in mesh.ranks], mesh).requires_grad_()
    y_ = mesh.all_reduce(x_ * 3, donate=True)
    weighed(y_)
    return {"y": y_, "x": x_.detach(), "x.grad": x_.grad}


def compared(n):
    """The errors of a column split, each shard's own columns against theirs of the whole product."""
    mesh, X, W = mesh_of(tp=n), random(3, 6), random(6, 7, seed=1)
    rows = compare(mesh.replicate(X) @ mesh.shard(W, dim=1), X, W, dim=1).rows
    assert all(row.passed for row in rows) and len(rows) == len(mesh.ranks)
    return {"allowed": held([torch.tensor(row.rms_allowed, dtype=FLOAT) for row in rows], mesh)}


# what the lessons do


def weighed(y_):
    """A replicated loss, with a random cotangent that is not the same everywhere in y."""
    (y_ * y_.mesh.replicate(random(*y_.shape, seed=9))).sum().backward()


def column(n, K=6, N=8):
    mesh = mesh_of(tp=n)
    X_ = mesh.replicate(random(3, K).requires_grad_())
    W_ = mesh.shard(random(K, N, seed=1).requires_grad_(), dim=1)
    b_ = mesh.shard(random(N, seed=2).requires_grad_(), dim=0)
    y_ = mesh.all_gather(gelu(mesh.copy(X_) @ W_ + b_), dim=1)
    weighed(y_)
    return {"y": y_, "X": X_.grad, "W": W_.grad, "b": b_.grad}


def row(n, K=8, N=5, reduce_first=True):
    mesh = mesh_of(tp=n)
    X_ = mesh.shard(random(3, K).requires_grad_(), dim=1)
    W_ = mesh.shard(random(K, N, seed=1).requires_grad_(), dim=0)
    b_ = mesh.replicate(random(N, seed=2).requires_grad_())
    p_ = X_ @ W_
    y_ = gelu(mesh.all_reduce(p_) + b_) if reduce_first else mesh.all_reduce(gelu(p_)) + b_
    weighed(y_)
    return {"y": y_, "X": X_.grad, "W": W_.grad, "b": b_.grad}


def dense_layers():
    torch.manual_seed(0)
    return torch.nn.Linear(6, 12).double(), torch.nn.Linear(12, 6).double()


def layers(n, axis=None):
    """Column then row, two steps of an optimizer, and the dense layers back."""
    mesh = mesh_of(tp=n) if axis is None else mesh_of(dp=2, tp=n // 2)[axis]
    up, down = dense_layers()
    first, second = ColumnParallelLinear(up, mesh), RowParallelLinear(down, mesh)
    step = torch.optim.SGD([*first.parameters(), *second.parameters()], lr=0.1, momentum=0.9)
    X_ = mesh.replicate(random(4, 6).requires_grad_())
    for _ in range(2):
        step.zero_grad()
        y_ = second(gelu(first(X_)))
        weighed(y_)
        step.step()
    values = {"y": y_, "X": X_.grad, "W1": first.weight.grad, "b1": first.bias.grad, "W2": second.weight.grad}
    values |= {"first": first.weight.detach(), "second": second.weight.detach(), "bias": second.bias.detach()}
    return values | {"dense": mesh.replicate(second.to_dense().weight.detach())}


def vocabulary(n):
    """A cross-entropy whose logits are cut: a max without gradient, sums, and a step that depends on the rank."""
    mesh = mesh_of(tp=n)
    X_, W_ = mesh.replicate(random(5, 4).requires_grad_()), mesh.shard(random(4, 8, seed=1).requires_grad_(), dim=1)
    targets = torch.tensor([0, 7, 3, 2, 5])
    z_ = mesh.copy(X_) @ W_
    top_ = mesh.all_reduce(z_.detach().amax(1, keepdim=True), op="max")
    own_ = mesh.replicate(targets) - mesh.rank * z_.shape[1]
    held_ = (own_ >= 0) & (own_ < z_.shape[1])
    picked_ = z_.gather(1, own_.clamp(0, z_.shape[1] - 1)[:, None])[:, 0]
    target_ = mesh.all_reduce(torch.where(held_, picked_, 0.0))
    norm_ = mesh.all_reduce((z_ - top_).exp().sum(1)).log() + top_[:, 0]
    loss_ = (norm_ - target_).mean()
    loss_.backward()
    want = cross_entropy(random(5, 4) @ random(4, 8, seed=1), targets)
    assert torch.allclose(loss_.shards[0].detach().cpu(), want)
    return {"loss": loss_, "X": X_.grad, "W": W_.grad}


def data_and_tensor(n):
    """dp×tp: each axis its own collectives."""
    mesh = mesh_of(dp=2, tp=n // 2)
    dp, tp = mesh["dp"], mesh["tp"]
    X_, W_ = dp.shard(random(6, 4), dim=0), tp.shard(random(4, 8, seed=1).requires_grad_(), dim=1)
    y_ = tp.all_gather(gelu(X_ @ dp.copy(W_)), dim=1)
    (y_ * y_).sum().backward()
    return {"y": y_, "W": W_.grad, "rank": mesh.rank, "dp": dp.rank, "tp": tp.rank}


def checks(n):
    """Every check for this number of shards, by name."""
    all_of = {}
    for name in COLLECTIVES:
        for kind in SIZES:
            all_of[f"{name} {kind}"] = partial(collective, name=name, kind=kind)
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.uint8, WHOLE):
            if name != "copy" or dtype.is_floating_point:
                all_of[f"{name} {str(dtype)[6:]}"] = partial(collective, name=name, kind="uneven", dtype=dtype)
        if n == 4:
            for axis in ("dp", "tp", "both"):
                all_of[f"{name} along {axis}"] = partial(collective, name=name, kind="uneven", axis=axis)
    for dtype in (FLOAT, torch.bfloat16, torch.bool, WHOLE):
        all_of[f"max {str(dtype)[6:]}"] = partial(maximum, dtype=dtype)
    all_of |= {
        "column": column,
        "column uneven": partial(column, K=5, N=7),
        "column empty": partial(column, N=1),
        "row": row,
        "row uneven": partial(row, K=7),
        "row empty": partial(row, K=1),
        "nonlinearity first": partial(row, reduce_first=False),
        "layers": layers,
        "vocabulary": vocabulary,
        "conjugated": conjugated,
        "donated": donated,
        **{f"shift by {by}": partial(shifted, by=by) for by in (0, 2, 3, -7, n)},
        "compared": compared,
    }
    if n == 4:
        all_of |= {"data and tensor": data_and_tensor, "layers along tp": partial(layers, axis="tp")}
    return all_of


def observe(check, n):
    """The values of one check, for each shard held here, and what was recorded."""
    meshes = [mesh_of(tp=n)] + ([mesh_of(dp=2, tp=n // 2)] if n == 4 else [])
    with meshes[0].record() as flat, meshes[-1].record() as crossed:
        values = check(n)
    traffic = [
        [call.phase, call.name, call.axis, list(call.shape), str(call.dtype), call.payload, call.wire]
        for call in flat + (crossed if len(meshes) > 1 else [])
    ]
    return {"values": {name: [t.detach().cpu() for t in x_.shards] for name, x_ in values.items()}, "traffic": traffic}


# what goes wrong, on ranks only


def other_shape(mesh):
    mesh.all_reduce(held([torch.ones(2, 3 + dist.get_rank())], mesh))


def other_dtype(mesh):
    mesh.all_gather(held([torch.ones(2, dtype=[FLOAT, WHOLE][dist.get_rank() % 2])], mesh), dim=0)


def other_dims(mesh):
    mesh.all_gather(held([torch.ones([2] * (1 + dist.get_rank()))], mesh), dim=0)


def other_order(mesh):
    x_ = mesh.replicate(torch.ones(4))
    first, second = (mesh.all_reduce, partial(mesh.all_gather, dim=0))
    if dist.get_rank() == 1:
        first, second = second, first
    second(first(x_))


def other_order_backward(mesh):
    x_ = mesh.replicate(torch.ones(4, requires_grad=True))
    y_ = mesh.copy(x_) if dist.get_rank() == 0 else mesh.scatter(x_, dim=0)
    y_.sum().backward()


def scatter_of_two_values(mesh):
    x_ = held([torch.ones(4 + 2 * dist.get_rank(), requires_grad=True)], mesh)
    mesh.scatter(x_, dim=0).sum().backward()


def other_step(mesh):
    mesh.shift(mesh.replicate(torch.ones(2)), by=dist.get_rank())


def no_such_dtype(mesh):
    mesh.all_reduce(mesh.replicate(torch.ones(2, dtype=torch.int16)))


def sum_of_bools(mesh):
    mesh.all_reduce(mesh.replicate(torch.ones(2, dtype=torch.bool)))


MISTAKES = {
    "another size": lambda mesh: Mesh(3),
    "other axes": lambda mesh: Mesh(dp=3, tp=5),
    "shape": other_shape,
    "dtype": other_dtype,
    "dims": other_dims,
    "order": other_order,
    "order backward": other_order_backward,
    "scatter": scatter_of_two_values,
    "step": other_step,
    "dtype that does not travel": no_such_dtype,
    "bools": sum_of_bools,
}


def error_of(mistake, mesh):
    try:
        mistake(mesh)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


ANSWERS = {
    "column_linear": lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ W, dim=1),
    "row_linear": lambda mesh, X, W: mesh.all_reduce(X @ W),
    "row_bias": lambda mesh, X, W, b: mesh.all_reduce(X @ W) + b,
    "reduce_then_activate": lambda mesh, X, W: gelu(mesh.all_reduce(X @ W)),
    "uneven_linear": lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ mesh.shard(W, dim=1), dim=1),
}
WRONG = {
    "column_linear": lambda mesh, X, W: X @ W,
    "row_linear": lambda mesh, X, W: mesh.all_reduce(X @ W) / mesh.size,
    "row_bias": lambda mesh, X, W, b: mesh.all_reduce(X @ W + b),
    "reduce_then_activate": lambda mesh, X, W: mesh.all_reduce(gelu(X @ W)),
    "uneven_linear": lambda mesh, X, W: X @ mesh.shard(W, dim=1),
}


def fails_on_one(mesh, X, W):
    if mesh.ranks[0] == 1:
        return 1 / 0
    return mesh.all_reduce(X @ W)


def verdicts():
    """The checks of the exercises, as a learner under torchrun sees them."""
    told = {}
    for name in ANSWERS:
        exercise = getattr(exercises, name)
        right, wrong = exercise.check(ANSWERS[name], gradients=True), exercise.check(WRONG[name])
        told[name] = [right.passed, str(right.message), wrong.passed, str(wrong.mistake)]
    told["on one rank only"] = str(exercises.row_linear.check(fails_on_one))
    told["after it"] = exercises.row_linear.check(ANSWERS["row_linear"], gradients=True).passed
    return told


def listening():
    """The addresses at which this process waits for connections."""
    found = psutil.Process().net_connections(kind="tcp")
    return sorted({connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN})


def gloo_policy():
    """How the system schedules gloo's own threads (see `world.take_turns`); empty where it cannot be seen."""
    threads = Path("/proc/self/task").glob("*/comm")
    own = [int(name.parent.name) for name in threads if name.read_text().startswith("gloo")]
    return [os.sched_getscheduler(thread) for thread in own]


def main(folder, how):
    if how == "wire":
        board.shared = lambda: None
    mesh = Mesh()
    n = mesh.size
    result = {"pid": os.getpid(), "rank": dist.get_rank(), "world": dist.get_world_size(), "n": n}
    result |= {"held": len(mesh.replicate(torch.ones(1)).shards), "backend": dist.get_backend()}
    result["page"] = agreement.swap is not None
    result["policy"] = gloo_policy()
    result["checks"] = {name: observe(check, n) for name, check in checks(n).items()}
    result["verdicts"] = verdicts()
    result["errors"] = {name: error_of(mistake, mesh) for name, mistake in MISTAKES.items()}
    result["after"] = observe(column, n)  # errors leave the ranks in step
    result["listening"] = listening()
    if dist.get_rank() == 0:  # the others leave without a word
        result["alone"] = error_of(lambda mesh: mesh.all_reduce(mesh.replicate(torch.ones(2))), mesh)
    torch.save(result, Path(folder) / f"rank{dist.get_rank()}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
