"""Memory, in bytes of one device: activations, parameters with what training keeps beside them, and the KV cache."""


def activation_bytes(s, b, h, a, t=1, sequence=False, recompute=None):
    """What one transformer layer keeps for backward (arXiv 2205.05198, table 2): 16-bit values, 1-byte dropout masks.

        sbh (34 + 5as/h)              on one device
        sbh (10 + 24/t + 5as/ht)      tensor parallel over t
        sbh (34 + 5as/h) / t          and sequence parallel (`sequence=True`)
        without the 5as/h             `recompute="selective"`: the attention's scores are computed again in backward
        2sbh                          `recompute="full"`: the whole layer is, from its input

    s tokens, b sequences, h wide, a heads.

    >>> activation_bytes(2048, 1, 12288, 96, t=8) / (2048 * 12288)  # GPT-3: 10 + 3 + 80/8
    23.0
    """
    if recompute not in (None, "selective", "full"):
        raise ValueError(f"recompute is None, 'selective' or 'full', not {recompute!r}")
    if recompute == "full":
        return 2 * s * b * h
    scores = 0 if recompute else 5 * a * s / h
    cut, whole = (34, 0) if sequence else (24, 10)  # whole: the norms, two dropouts, and what goes into the layers
    return s * b * h * (whole + (cut + scores) / t)


def state_bytes(parameters, parameter=2, gradient=2, optimizer=12):
    """Parameters, gradients and optimizer state, in bytes: P · (2 + 2 + 12) for Adam in mixed precision, which keeps
    the parameter, its mean and its variance in 32 bits (ZeRO, arXiv 1910.02054, section 3.1).

    >>> state_bytes(8.03e9) / 1e9  # Llama 3.1 8B, before a single activation
    128.48
    """
    return parameters * (parameter + gradient + optimizer)


def kv_bytes(model, tokens=1, value=2):
    """The KV cache of one sequence: 2 · layers · kv heads · head_dim values a token (Scaling Book, inference.md).

    Latent attention keeps kv_rank + rope_dim values a token and layer instead, for all heads together (DeepSeek-V3,
    arXiv 2412.19437, section 2.1.1). A layer with a window keeps the last `window` tokens.

    >>> from shardlab.cost import MODELS
    >>> kv_bytes(MODELS["Llama 3.1 8B"]) / 1024
    128.0
    """
    a_token = model.kv_rank + model.rope_dim if model.kv_rank else 2 * model.kv_heads * model.head_dim
    held = (model.layers - model.window_layers) * tokens + model.window_layers * min(tokens, model.window)
    return held * a_token * value
