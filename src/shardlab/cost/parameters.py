"""How many parameters a model has, from its shape (a row of `figures.MODELS`, or of `figures.GPTS`)."""


def parameters(model):
    """All parameters: embedding and head (one, if they are tied), and for each layer attention, MLP and two norms.

    The shapes agree with the models' names: see tests/test_cost.py. Norms over the heads (Qwen3) are left out: they are
    less than a millionth.
    """
    return outside(model) + model.layers * attention(model) + sum(mlps(model, model.experts))


def active_parameters(model):
    """Those that one token meets: of the experts, only the `top` that its router picks, and the shared ones."""
    return outside(model) + model.layers * attention(model) + sum(mlps(model, model.top))


def outside(model):
    """Embedding [V, h], head [V, h] and the last norm [h]."""
    return (1 if model.tied else 2) * model.vocab * model.h + model.h


def attention(model):
    """W_q, W_k, W_v and W_o of one layer, and its two norms. Latent attention (DeepSeek-V3, arXiv 2412.19437, section
    2.1.1) makes queries, keys and values from two narrow ones, of q_rank and kv_rank numbers a token, and one rotary
    key for all heads; there a head has head_dim numbers without rotation, and rope_dim with it."""
    h, wide = model.h, model.heads * model.head_dim
    if model.kv_rank:
        queries = h * model.q_rank + model.q_rank * model.heads * (model.head_dim + model.rope_dim)
        keys_and_values = h * (model.kv_rank + model.rope_dim) + model.kv_rank * 2 * wide
        return queries + keys_and_values + wide * h + 2 * h + model.q_rank + model.kv_rank
    narrow = model.kv_heads * model.head_dim
    biases = wide + 2 * narrow + h + model.heads if model.bias else 0  # gpt-oss has a sink for each head, too
    return 2 * h * wide + 2 * h * narrow + 2 * h + biases


def mlps(model, experts):
    """The MLP of each layer, with so many of its experts: gate, up and down, [h, F] each."""
    if not model.experts:
        return [3 * model.h * model.ffn] * model.layers
    bias = 2 * model.ffn + model.h if model.bias else 0
    router = model.experts * (model.h + (1 if model.bias else 0))
    sparse = (experts + model.shared) * (3 * model.h * model.ffn + bias) + router
    dense = 3 * model.h * (model.dense_ffn or 0)
    return [dense] * model.dense_layers + [sparse] * (model.layers - model.dense_layers)


def gpt_parameters(h, layers, vocab, s):
    """P = 12lh² (1 + 13/12h + (V + s)/12lh): a GPT with an MLP of 4h, biases, and a learned position for each of s
    tokens (arXiv 2104.04473, eq. 2).

    >>> round(gpt_parameters(h=12288, layers=96, vocab=51200, s=2048) / 1e9, 1)  # GPT-3
    174.6
    """
    return 12 * layers * h**2 * (1 + 13 / (12 * h) + (vocab + s) / (12 * layers * h))
