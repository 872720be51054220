"""An outside reference: models of Hugging Face's transformers, random and tiny, cut with our layers.

The converter reads a model as it stands, and knows nothing of how it computes: the logits, the loss and every gradient
that come out are held against the model's own.
"""

import pytest
import torch
from torch import nn
from twins import gradients

from shardlab import Mesh
from shardlab.layers import (
    Attention,
    ColumnParallelLinear,
    ParallelTransformerLayer,
    Replicated,
    TransformerLayer,
    VocabParallelEmbedding,
    fused,
    vocab_parallel_cross_entropy,
)

transformers = pytest.importorskip("transformers")
CPU, VOCABULARY, SIZE = ["cpu"], 21, 8
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": SIZE,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": None,
    "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager",
}  # fmt: skip


class ParallelCausalLM(nn.Module):
    """A Llama of transformers, cut over a mesh, from the dense twins of its parts."""

    def __init__(self, embed, layers, norm, head, mesh):
        super().__init__()
        self.mesh, self.embed = mesh, VocabParallelEmbedding(embed, mesh)
        self.layers = nn.ModuleList(ParallelTransformerLayer(layer, mesh) for layer in layers)
        self.norm = Replicated(norm, mesh)
        self.head = head and ColumnParallelLinear(head, mesh)  # None: tied

    def forward(self, ids_):
        x_ = self.embed(ids_)
        for layer in self.layers:
            x_ = layer(x_)
        x_ = self.norm(x_)
        return self.embed.logits(x_) if self.head is None else self.head(x_)  # [B, T, V/n]

    def loss(self, ids_):
        """Of the next token."""
        logits_ = self(ids_)[..., :-1, :]
        return vocab_parallel_cross_entropy(self.mesh, logits_, ids_[..., 1:], self.embed.num_embeddings)


def dense_twins(model):
    """The parts of a model of transformers, as modules of ours and of torch that have its parameters."""
    layers = [dense_layer(layer, model.config) for layer in model.model.layers]
    head = None if model.config.tie_word_embeddings else model.lm_head
    return unpadded(model.model.embed_tokens), layers, rms(model.model.norm), head


def dense_layer(theirs, config):
    layer = TransformerLayer(1, 1, 1)
    layer.input_layernorm, layer.post_attention_layernorm = (
        rms(norm) for norm in (theirs.input_layernorm, theirs.post_attention_layernorm)
    )
    theta = config.rope_parameters["rope_theta"]
    heads, eps = (config.num_attention_heads, config.num_key_value_heads, config.head_dim), None
    if hasattr(theirs.self_attn, "q_norm"):  # Qwen3
        eps = config.rms_norm_eps
    layer.self_attn = Attention(1, *heads, theta=theta, eps=eps)
    for name in ("q_norm", "k_norm") if eps else ():
        setattr(layer.self_attn, name, rms(getattr(theirs.self_attn, name)))
    if hasattr(theirs.self_attn, "qkv_proj"):  # Phi-3
        parts = fused.split(theirs.self_attn.qkv_proj, fused.qkv(*heads, "by kind"))
        layer.mlp.gate_proj, layer.mlp.up_proj = fused.split(
            theirs.mlp.gate_up_proj, fused.gate_up(config.intermediate_size)
        )
    else:
        parts = theirs.self_attn.q_proj, theirs.self_attn.k_proj, theirs.self_attn.v_proj
        layer.mlp.gate_proj, layer.mlp.up_proj = theirs.mlp.gate_proj, theirs.mlp.up_proj
    for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
        setattr(layer.self_attn, name, part)
    layer.self_attn.o_proj, layer.mlp.down_proj = theirs.self_attn.o_proj, theirs.mlp.down_proj
    return layer


def rms(theirs):
    norm = nn.RMSNorm(len(theirs.weight), theirs.variance_epsilon)
    norm.weight = theirs.weight
    return norm


def unpadded(theirs):
    embedding = nn.Embedding(*theirs.weight.shape, device="meta")
    embedding.weight = theirs.weight
    return embedding


def llama(tied=False, **shape):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE | shape, tie_word_embeddings=tied)
    return randomised(transformers.LlamaForCausalLM(config))


def randomised(model):
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.normal_(std=0.3)
    return model


def phi3():
    torch.manual_seed(0)
    shape = {name: value for name, value in SHAPE.items() if name != "head_dim"} | {"hidden_size": 4 * SIZE}
    config = transformers.Phi3Config(**shape, tie_word_embeddings=False)
    config.head_dim = SIZE
    return randomised(transformers.Phi3ForCausalLM(config))


def qwen3(**shape):
    torch.manual_seed(0)
    return randomised(transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SHAPE | shape)))


MODELS = {
    "Llama": llama,
    "Llama, tied": lambda: llama(tied=True),
    "Llama, one kv head": lambda: llama(num_key_value_heads=1),
    "Llama, 3 heads": lambda: llama(hidden_size=24, num_attention_heads=3, num_key_value_heads=3),
    "Phi-3, fused": phi3,
    "Qwen3, q and k normalised": lambda: qwen3(tie_word_embeddings=False),
    "Qwen3, one kv head": lambda: qwen3(num_key_value_heads=1, tie_word_embeddings=True),
}


def reference(model, ids):
    """The logits that transformers computes, the loss of the next token, and its gradients in the model."""
    logits = model(input_ids=ids, use_cache=False).logits
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    return logits.detach(), loss.detach()


def run(parallel, ids):
    mesh = parallel.mesh
    logits_ = mesh.all_gather(parallel(mesh.replicate(ids)), dim=-1)
    loss_ = parallel.loss(mesh.replicate(ids))
    loss_.backward()
    return logits_.shards[0].detach(), loss_.shards[0].detach()


def assert_close(got, want):
    """transformers computes its norms and angles in float32, whatever the model is in."""
    torch.testing.assert_close(got, want, rtol=0, atol=2e-5 * want.abs().max().item())


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_logits_loss_and_gradients_are_those_of_transformers(make, n):
    model, mesh, ids = make(), Mesh(n, devices=CPU), torch.randint(0, VOCABULARY, (2, 7))
    parallel = ParallelCausalLM(*dense_twins(model), mesh)
    for got, want in zip(run(parallel, ids), reference(model, ids), strict=True):
        assert_close(got, want)
    for got, want in pairs(parallel, model):
        assert_close(got, want)


def pairs(parallel, model):
    """Each gradient of ours, whole, beside that of transformers."""
    yield gradients(parallel.embed).weight, model.model.embed_tokens.weight.grad
    yield gradients(parallel.norm).weight, model.model.norm.weight.grad
    if parallel.head is not None:
        yield gradients(parallel.head).weight, model.lm_head.weight.grad
    for mine, theirs in zip(parallel.layers, model.model.layers, strict=True):
        grads = gradients(mine)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield getattr(grads, norm).weight, getattr(theirs, norm).weight.grad
        attention, mlp = grads.self_attn, grads.mlp
        qkv, gate_up = (attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)
        if hasattr(theirs.self_attn, "qkv_proj"):
            yield torch.cat([part.weight for part in qkv]), theirs.self_attn.qkv_proj.weight.grad
            yield torch.cat([part.weight for part in gate_up]), theirs.mlp.gate_up_proj.weight.grad
        else:
            for name, part in zip(("q_proj", "k_proj", "v_proj"), qkv, strict=True):
                yield part.weight, getattr(theirs.self_attn, name).weight.grad
            for name, part in zip(("gate_proj", "up_proj"), gate_up, strict=True):
                yield part.weight, getattr(theirs.mlp, name).weight.grad
        for name in ("q_norm", "k_norm") if hasattr(theirs.self_attn, "q_norm") else ():
            yield getattr(attention, name).weight, getattr(theirs.self_attn, name).weight.grad
        yield attention.o_proj.weight, theirs.self_attn.o_proj.weight.grad
        yield mlp.down_proj.weight, theirs.mlp.down_proj.weight.grad


def on_a_rank(mesh, twins, ids):
    torch.set_default_dtype(torch.float64)
    parallel = ParallelCausalLM(*twins, mesh)
    return *run(parallel, ids), gradients(parallel.layers[0]).self_attn.k_proj.weight.detach()


@pytest.mark.ranks
def test_over_two_ranks_it_is_the_same(pool):
    model, ids = llama(num_key_value_heads=1), torch.randint(0, VOCABULARY, (2, 7))
    wanted = *reference(model, ids), model.model.layers[0].self_attn.k_proj.weight.grad
    found = pool.run(on_a_rank, dense_twins(model), ids, limit=60)
    assert len(found) == 2
    for got in found:
        for one, want in zip(got, wanted, strict=True):
            assert_close(one, want)
