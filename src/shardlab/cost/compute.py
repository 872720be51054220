"""FLOPs: how many there are in a product, a layer, a model, a training run, and how well they fill a GPU."""

from math import ceil

from shardlab.cost.parameters import active_parameters


def matmul_flops(m, k, n):
    """2mkn: [m, k] @ [k, n] is a multiplication and an addition for each of its mkn products."""
    return 2 * m * k * n


def layer_flops(s, b, h):
    """Forward FLOPs of one transformer layer with an MLP of 4h: 24bsh² + 4bs²h (arXiv 2104.04473, appendix).

    Q, K, V and the output 8bsh², scores and values 4bs²h, the MLP 16bsh². Backward is twice that.
    """
    return 24 * b * s * h**2 + 4 * b * s**2 * h


def gpt_flops(batch, s, layers, h, vocab):
    """F = 96Bslh² (1 + s/6h + V/16lh): one step of training, forward, backward and a forward recomputed (arXiv
    2104.04473, eq. 3). Without recomputation it is three quarters of that, but for the head."""
    return 96 * batch * s * layers * h**2 * (1 + s / (6 * h) + vocab / (16 * layers * h))


def training_days(tokens, parameters, devices, flops):
    """8TP/nX, in days: T tokens, P parameters, n devices that reach X FLOP/s each (arXiv 2104.04473, eq. 4; 8 = 2
    FLOPs a parameter forward, 4 backward, 2 recomputed).

    >>> round(training_days(300e9, 174.6e9, 1024, 140e12))  # GPT-3 on A100s
    34
    """
    return 8 * tokens * parameters / (devices * flops) / 86400


def forward_flops(model, tokens, context):
    """2 FLOPs for each active parameter and token; and in attention, for each layer, head and token of the context,
    2 for each number of a query and of a value (Scaling Book, transformers.md). The embedding is a look-up: 0."""
    weights = active_parameters(model) - (0 if model.tied else model.vocab * model.h)
    scores_and_values = 2 * model.heads * (2 * model.head_dim + model.rope_dim)
    return tokens * (2 * weights + model.layers * scores_and_values * context)


def waves(m, n, multiprocessors, tile=(128, 256)):
    """How often a GPU goes over the output [m, n], of which each multiprocessor does a tile at a time, and the share of
    them that have work: ⌈m/tile⌉ · ⌈n/tile⌉ tiles in ⌈tiles / multiprocessors⌉ waves.

    The last wave takes as long as a full one: wave quantization (NVIDIA, 'Matrix Multiplication Background User's
    Guide', section 3.2).

    >>> waves(8192, 8192 // 32, multiprocessors=132)  # 64 tiles: more than half of the GPU is idle
    (1, 0.48484848484848486)
    """
    tiles = ceil(m / tile[0]) * ceil(n / tile[1])
    count = ceil(tiles / multiprocessors)
    return count, tiles / (count * multiprocessors)
