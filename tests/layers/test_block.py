"""A whole transformer layer against its dense twin, in one process and over ranks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from twins import assert_twins, gradients, refilled

from shardlab import Mesh
from shardlab.layers import (
    ParallelTransformerLayer,
    TransformerLayer,
    VocabParallelEmbedding,
    clip_grad_norm_,
    vocab_parallel_cross_entropy,
)

CPU = ["cpu"]


@given(n=st.integers(1, 8), kv_heads=st.integers(1, 4), group=st.integers(1, 3), hidden=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_values_and_every_gradient_are_the_dense_twins(n, kv_heads, group, hidden):
    mesh = Mesh(n, devices=CPU)
    dense = refilled(TransformerLayer(6, hidden, kv_heads * group, kv_heads, 2))
    assert_twins(dense, ParallelTransformerLayer(dense, mesh), mesh, torch.randn(2, 3, 6, dtype=torch.float64))


def test_four_all_reduces_a_layer():
    mesh, (T, width) = Mesh(2, devices=CPU), (5, 6)
    layer = ParallelTransformerLayer(TransformerLayer(width, 8, 4, 2, 2), mesh)
    with mesh.record() as traffic:
        layer(mesh.replicate(torch.randn(T, width, requires_grad=True))).sum().backward()
    said = [(call.phase, call.name, list(call.shape)) for call in traffic]
    assert said == [(phase, "all_reduce", [T, width]) for phase in ("forward", "forward", "backward", "backward")]


def test_axis_by_axis_on_a_mesh_of_two():
    mesh = Mesh(dp=2, tp=3, devices=CPU)
    dense = refilled(TransformerLayer(6, 8, 4, 2, 2))
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    assert_twins(dense, ParallelTransformerLayer(dense, mesh["tp"]), mesh, x)


def model(mesh, embedding, layer, ids, targets):
    """Loss and gradients of a model of one layer with tied embeddings."""
    torch.set_default_dtype(torch.float64)
    words, block = VocabParallelEmbedding(embedding, mesh), ParallelTransformerLayer(layer, mesh)
    logits_ = words.logits(block(words(mesh.replicate(ids))))
    loss_ = vocab_parallel_cross_entropy(mesh, logits_, mesh.replicate(targets), words.num_embeddings)
    loss_.backward()
    norm = clip_grad_norm_([words, block], 1e9)
    return loss_.shards[0].detach(), norm, [p.detach() for m in (words, block) for p in gradients(m).parameters()]


@pytest.mark.ranks
def test_a_model_over_ranks_is_the_dense_one(pool):
    embedding, layer = refilled(nn.Embedding(7, 6)), refilled(TransformerLayer(6, 8, 3, 1, 2))
    ids, targets = torch.randint(0, 7, (2, 5)), torch.randint(0, 7, (2, 5))
    loss = nn.functional.cross_entropy((layer(embedding(ids)) @ embedding.weight.T).view(10, 7), targets.view(10))
    loss.backward()
    wanted = [p.grad for m in (embedding, layer) for p in m.parameters()]
    norm = nn.utils.get_total_norm(wanted)
    found = pool.run(model, embedding, layer, ids, targets, limit=60)
    assert len(found) == 2
    for got, got_norm, got_gradients in found:
        torch.testing.assert_close(got, loss.detach())
        torch.testing.assert_close(got_norm, norm)
        torch.testing.assert_close(got_gradients, wanted)
