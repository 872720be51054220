"""Memory, in bytes of one device: activations, parameters with what training keeps beside them, and the KV cache."""


def activation_bytes(s, b, h, a, t=1, sequence=False, recompute=None, value=2):
    """What one transformer layer keeps for backward (arXiv 2205.05198, table 2): 16-bit values, 1-byte dropout masks.

        sbh (34 + 5as/h)              on one device
        sbh (10 + 24/t + 5as/ht)      tensor parallel over t
        sbh (34 + 5as/h) / t          and sequence parallel (`sequence=True`)
        without the 5as/h             `recompute="selective"`: the attention's scores are computed again in backward
        2sbh                          `recompute="full"`: the whole layer is, from its input (of which each device has
                                      its own piece under `sequence`: 2sbh/t, which the table leaves out)

    s tokens, b sequences, h wide, a heads; `value` is the bytes of a number, 4 where it has 32 bits. Of the 34, 12
    values are cut with heads and features; 4 values and 2 masks are not. The scores are 2 values and a mask.

    >>> activation_bytes(2048, 1, 12288, 96, t=8) / (2048 * 12288)  # GPT-3: 10 + 3 + 80/8
    23.0
    """
    if recompute not in (None, "selective", "full"):
        raise ValueError(f"recompute is None, 'selective' or 'full', not {recompute!r}")
    whole, cut = 4 * value + 2, 12 * value  # whole: the norms, two dropouts, and what goes into the layers
    scores = 0 if recompute else (2 * value + 1) * a * s / h
    if recompute == "full":
        whole, cut = value, 0
    return s * b * h * (whole / (t if sequence else 1) + (cut + scores) / t)


def gated_activation_bytes(model, s, b=1, t=1, sequence=False, recompute=None, value=2):
    """The same for a layer of `figures.MODELS` with a gated MLP, fused attention and no dropout: sb · bytes a token,

        value · (4h + (2ad + 2kd + 4F) / t) + 4a/t        over t as a whole under `sequence`

    4h: what goes into the norms and into the layers. Cut: queries and the attention's output (a heads of d), keys and
    values (k heads), and of the MLP gate, silu(gate), up and their product. Fused attention keeps no scores, but 4
    bytes a head and token (arXiv 2205.14135, section 3.1), so `recompute="selective"` has nothing to gain.
    Counted by hand, and by saved-tensor hooks in tests/layers/test_gpt.py. A model with experts is refused.
    """
    if model.experts:
        raise ValueError(f"{model.name} has experts: what its layers keep depends on where its router sends the tokens")
    if recompute == "full":
        return s * b * value * model.h / (t if sequence else 1)
    whole, heads = 4 * model.h, 2 * (model.heads + min(max(model.kv_heads, t), model.heads)) * model.head_dim
    cut = value * (heads + 4 * model.ffn) + 4 * model.heads
    return s * b * (value * whole / (t if sequence else 1) + cut / t)


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
