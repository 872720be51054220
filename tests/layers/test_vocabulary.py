"""The embedding and the loss along the vocabulary, against torch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from twins import assert_twins, refilled

from shardlab import Mesh
from shardlab.layers import VocabParallelEmbedding, vocab_parallel_cross_entropy, words_of

CPU = ["cpu"]


@given(n=st.integers(1, 8), more=st.integers(0, 9), shape=st.lists(st.integers(1, 4), max_size=2))
@settings(max_examples=40, deadline=None)
def test_the_embedding_is_the_dense_one(n, more, shape):
    mesh, dense = Mesh(n, devices=CPU), refilled(nn.Embedding(n + more, 3))
    layer, ids = VocabParallelEmbedding(dense, mesh), torch.randint(0, n + more, shape)
    assert_twins(dense, layer, mesh, ids)
    with mesh.record() as traffic:
        layer(mesh.replicate(ids)).sum().backward()
    assert [(call.name, list(call.shape)) for call in traffic] == [("all_reduce", [*shape, 3])]


@given(
    n=st.integers(1, 8), more=st.integers(0, 9), shape=st.lists(st.integers(1, 4), max_size=2),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]), reduction=st.sampled_from(["none", "sum", "mean"]),
    ignored=st.booleans(), scale=st.sampled_from([1.0, 1e4]),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_the_loss_is_torchs(n, more, shape, smoothing, reduction, ignored, scale):
    mesh, V = Mesh(n, devices=CPU), n + more
    logits = (scale * torch.randn(*shape, V, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(0, V, shape)
    if ignored and targets.numel() > 1:
        targets.view(-1)[0] = -1
    options = {"label_smoothing": smoothing, "reduction": reduction, "ignore_index": -1}
    want = cross_entropy(logits.view(-1, V), targets.view(-1), **options)
    want = want.view(shape) if reduction == "none" else want
    cotangent = torch.randn_like(want)
    want.backward(cotangent)
    logits_ = mesh.shard(logits, dim=-1)
    with mesh.record() as traffic:
        loss_ = vocab_parallel_cross_entropy(mesh, logits_, mesh.replicate(targets), V, **options)
        loss_.backward(mesh.replicate(cotangent))
    for got in loss_.shards:
        torch.testing.assert_close(got, want)
    for got, piece in zip(logits_.grad.shards, logits.grad.tensor_split(n, dim=-1), strict=True):
        torch.testing.assert_close(got, piece)
    assert [(call.phase, call.name, list(call.shape)) for call in traffic] == [("forward", "all_reduce", shape)] * 3


def test_a_piece_of_the_vocabulary_that_is_padding_adds_nothing():
    mesh, logits = Mesh(2, devices=CPU), torch.randn(4, 6, dtype=torch.float64)
    logits[:, 3:] = -torch.inf  # all of shard 1
    logits.requires_grad_()
    targets = torch.tensor([0, 1, 2, 0])
    cross_entropy(logits, targets).backward()
    logits_ = mesh.shard(logits, dim=1)
    loss_ = vocab_parallel_cross_entropy(mesh, logits_, mesh.replicate(targets), 6)
    loss_.backward()
    torch.testing.assert_close(loss_.shards[1], cross_entropy(logits, targets))
    torch.testing.assert_close(torch.cat(logits_.grad.shards, 1), logits.grad)


def test_a_row_that_is_not_finite_stays_with_the_tokens_that_ask_for_it():
    dense = nn.Embedding(4, 2)
    dense.weight.data[2] = torch.inf  # the first row of shard 1, where the tokens of others are looked up
    mesh = Mesh(2, devices=CPU)
    rows_ = VocabParallelEmbedding(dense, mesh)(mesh.replicate(torch.tensor([0, 2])))
    assert torch.equal(rows_.shards[0], dense.weight[[0, 2]])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_tied_weights_have_one_gradient(n):
    mesh, dense = Mesh(n, devices=CPU), refilled(nn.Embedding(7, 3))
    layer, ids, targets = VocabParallelEmbedding(dense, mesh), torch.randint(0, 7, (5,)), torch.randint(0, 7, (5,))
    want = cross_entropy(torch.tanh(dense(ids)) @ dense.weight.T, targets)
    want.backward()
    ids_, targets_ = mesh.replicate(ids), mesh.replicate(targets)
    loss_ = vocab_parallel_cross_entropy(mesh, layer.logits(torch.tanh(layer(ids_))), targets_, 7)
    loss_.backward()
    torch.testing.assert_close(loss_.shards[0], want)
    for got, piece in zip(layer.weight.grad.shards, dense.weight.grad.tensor_split(n), strict=True):
        torch.testing.assert_close(got, piece)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_runs_in_other_dtypes(dtype):
    mesh, logits, targets = Mesh(3, devices=CPU), torch.randn(6, 50, dtype=dtype), torch.randint(0, 50, (6,))
    loss_ = vocab_parallel_cross_entropy(mesh, mesh.shard(logits, dim=1), mesh.replicate(targets), 50)
    assert loss_.dtype == dtype
    want = cross_entropy(logits.double(), targets).to(dtype)
    torch.testing.assert_close(loss_.shards[0], want, rtol=4 * torch.finfo(dtype).eps, atol=0)


def place(mesh, V=6, width=6, targets=(0, 5)):
    return mesh.shard(torch.randn(2, width), dim=1), mesh.replicate(torch.tensor(targets)), V


@pytest.mark.parametrize(
    "wrong, error, told",
    [
        (lambda m: vocab_parallel_cross_entropy(m, *place(m, targets=(0, 6))), IndexError, "ids from 0 to 6"),
        (lambda m: vocab_parallel_cross_entropy(m, *place(m, targets=(-3, 2))), IndexError, "vocabulary has 0 to 5"),
        (lambda m: vocab_parallel_cross_entropy(m, *place(m, V=7)), ValueError, r"shard 0 has logits \[2, 3\]"),
        (lambda m: vocab_parallel_cross_entropy(m, *place(m), reduction="all"), ValueError, "'none', 'sum' or 'mean'"),
        (lambda m: VocabParallelEmbedding(nn.Embedding(1, 4), m), ValueError, "leave shard 1 without any"),
        (lambda m: VocabParallelEmbedding(nn.Embedding(6, 4, padding_idx=0), m), ValueError, "padding_idx=0"),
        (lambda m: VocabParallelEmbedding(nn.Embedding(6, 4, max_norm=1.0), m), ValueError, "max_norm=1.0"),
        (
            lambda m: VocabParallelEmbedding(nn.Embedding(6, 4), m)(m.replicate(torch.tensor([7]))),
            IndexError,
            "ids from 7 to 7, and the vocabulary has 0 to 5",
        ),
    ],
)
def test_what_cannot_be_right_is_told(wrong, error, told):
    with pytest.raises(error, match=told):
        wrong(Mesh(2, devices=CPU))


@given(n=st.integers(1, 8), V=st.integers(0, 17), dim=st.integers(-2, 1))
@settings(max_examples=30, deadline=None)
def test_each_shard_is_told_its_own_words(n, V, dim):
    mesh, shape = Mesh(n, devices=CPU), [3, 3]
    shape[dim] = V
    piece_ = mesh.shard(torch.randn(shape), dim=dim)
    with mesh.record() as traffic:
        words_ = words_of(mesh, piece_, dim)
    for words, piece in zip(words_.shards, torch.arange(V).tensor_split(n), strict=True):
        assert torch.equal(words, piece)
    assert traffic.payload == 8 * n


def test_words_are_counted_along_one_axis():
    mesh = Mesh(dp=2, tp=2, devices=CPU)
    words_ = words_of(mesh["tp"], mesh["tp"].shard(torch.randn(5), dim=0))
    assert [words.tolist() for words in words_.shards] == [[0, 1, 2], [3, 4]] * 2
