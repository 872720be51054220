"""Python's operators for a class that holds several shards: `x_ + y_`, `2 * x_`, `x_ += 1`, `x_[0]`, `len(x_)`.

Each becomes a method that hands Python's own function to `lift(function, args, kwargs)`, which knows what it means
shard by shard.
"""

import operator

CALLED = [len, float, int]
UNARY = ["getitem", "setitem", "neg", "pos", "abs", "invert", "index"]
BITS = ["and_", "or_", "xor", "lshift", "rshift"]
BINARY = ["add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", *BITS]
COMPARED = ["eq", "ne", "lt", "le", "gt", "ge"]


def install(cls, lift, wrap):
    """Give `cls` all of them; wrap(tensors, mesh) makes one of its instances of known tensors."""

    def lifted(function):
        return lambda self, *others: lift(function, (self, *others), {})

    def reflected(function):
        return lambda self, other: lift(function, (other, self), {})

    def lifted_binary(function):
        """`lifted` without the general cases, for the commonest one: two values on one mesh."""

        def method(self, other):
            if type(other) is cls and other.mesh is self.mesh:
                try:
                    return wrap([*map(function, self.shards, other.shards)], self.mesh)
                except RuntimeError:
                    pass  # lift raises it again, and names the shard
            return lift(function, (self, other), {})

        return method

    for function in CALLED:
        setattr(cls, f"__{function.__name__}__", lifted(function))
    for name in UNARY:
        setattr(cls, f"__{name}__", lifted(getattr(operator, name)))
    for name in [*BINARY, *COMPARED]:
        setattr(cls, f"__{name.strip('_')}__", lifted_binary(getattr(operator, name)))
    for name in BINARY:
        setattr(cls, f"__r{name.strip('_')}__", reflected(getattr(operator, name)))
        setattr(cls, f"__i{name.strip('_')}__", lifted(getattr(operator, "i" + name.strip("_"))))
