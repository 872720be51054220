"""The two ends of a language model, cut along the vocabulary: the embedding, and the loss of the logits.

Both ask of each shard only what its own words need: a row for each token that is its own, and for the loss three
numbers a token instead of V logits.
"""

import torch
from torch import nn
from torch.nn.functional import embedding, linear

from shardlab.collectives import split_sizes
from shardlab.layers.sharded import ShardedModule
from shardlab.shards import Shards

UNSPLIT = ("padding_idx", "max_norm", "scale_grad_by_freq", "sparse")


class VocabParallelEmbedding(ShardedModule):
    """Y = Σ_r (E_r[ids − start_r] where they are shard r's, else 0), with E = [E_1; …; E_p] cut along the vocabulary.

    ids [*] and Y [*, width] are replicated; shard r has V/p rows (torch.tensor_split: p need not divide V). Forward:
    one all-reduce (*g*); backward moves nothing. Source: Megatron-LM (arXiv 1909.08053, section 3);
    core/tensor_parallel/layers.py. It pads V up to a multiple, 50,257 to 51,200, so that the pieces are equal.

    `logits(x_)` is the output layer that shares this weight (*tied*): X E_rᵀ, [*, V/p] on shard r. The weight is one,
    and so is its gradient.

    >>> import shardlab
    >>> mesh, dense = shardlab.Mesh(2, devices=["cpu"]), nn.Embedding(7, 4)
    >>> layer, ids = VocabParallelEmbedding(dense, mesh), torch.tensor([0, 6, 3])
    >>> torch.equal(layer(mesh.replicate(ids)).shards[0], dense(ids))
    True
    """

    def __init__(self, dense, mesh):
        super().__init__(mesh)
        for option in UNSPLIT:
            value = getattr(dense, option)
            if value is not None and value is not False:
                raise ValueError(f"VocabParallelEmbedding does not split an nn.Embedding with {option}={value}")
        self.num_embeddings, self.embedding_dim = dense.weight.shape
        refuse_fewer_than_shards(mesh, self.num_embeddings)
        self.hold("weight", dense.weight, 0)

    @property
    def weight(self):
        """The rows of each shard, as a Shards of leaf parameters."""
        return self.held("weight")

    def forward(self, ids_):
        place_, own_ = places(self.mesh, ids_, self.num_embeddings)
        rows_ = embedding(place_, self.weight).masked_fill(~own_.unsqueeze(-1), 0)
        return self.mesh.all_reduce(rows_, donate=True)

    def logits(self, x_):
        """X Eᵀ by columns, [*, V/p]: the output layer with the same weight (*tied*); backward all-reduces dX (*f*)."""
        return linear(self.mesh.copy(x_), self.weight)

    def to_dense(self):
        """The dense embedding back, on the device of the first shard held here (an all-gather)."""
        dense = nn.Embedding(self.num_embeddings, self.embedding_dim, device="meta")
        dense.weight = self.whole("weight")
        return dense.train(self.training)


def vocab_parallel_cross_entropy(
    mesh, logits_, targets_, vocab_size, label_smoothing=0.0, ignore_index=-100, reduction="mean"
):
    """torch's cross_entropy of logits that are cut along the vocabulary, without gathering them.

        loss = m + log Σ_r Σ_v exp(l_v − m) − Σ_r ((1 − ε) l_target + ε/V Σ_v l_v)

    with v the words of shard r, l_target on the shard that has it, m the largest logit, ε the label smoothing. logits_
    [*, V/p] are cut as torch.tensor_split cuts V = `vocab_size`; targets_ [*] are replicated, as is the loss: [*] for
    reduction="none", else one number ("sum"; "mean", over the targets that are not ignored, NaN if all are).
    Forward: three all-reduces of one number a token (m and the two Σ_r); backward moves nothing.
    Source: Megatron-LM, core/tensor_parallel/cross_entropy.py.

    >>> import shardlab
    >>> mesh, l, t = shardlab.Mesh(2, devices=["cpu"]), torch.randn(3, 7), torch.tensor([0, 6, 3])
    >>> loss_ = vocab_parallel_cross_entropy(mesh, mesh.shard(l, dim=-1), mesh.replicate(t), 7)
    >>> torch.allclose(loss_.shards[1], torch.nn.functional.cross_entropy(l, t))
    True
    """
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"reduction is 'none', 'sum' or 'mean', not {reduction!r}")
    refuse_another_cut(mesh, logits_, vocab_size)
    counted_ = targets_ != ignore_index
    place_, own_ = places(mesh, torch.where(counted_, targets_, 0), vocab_size)

    top_ = mesh.all_reduce(logits_.detach().amax(-1), op="max")  # taken away first, so that no exp overflows
    whole_ = top_ + mesh.all_reduce((logits_ - top_.unsqueeze(-1)).exp().sum(-1)).log()

    target_ = logits_.gather(-1, place_.unsqueeze(-1)).squeeze(-1).masked_fill(~own_, 0)  # another shard has it
    if label_smoothing:
        target_ = (1 - label_smoothing) * target_ + label_smoothing / vocab_size * logits_.sum(-1)
    loss_ = (whole_ - mesh.all_reduce(target_)).masked_fill(~counted_, 0)
    if reduction == "none":
        return loss_
    return loss_.sum() / counted_.sum() if reduction == "mean" else loss_.sum()


def words_of(mesh, piece_, dim=0):
    """The words of each shard, by their numbers in the vocabulary, of which `piece_` is cut along `dim`: [V/p].

    words_r = v_r, v_r + 1, …, where v_r is how many words the shards before r have. Who places a weight knows V, and
    has this for nothing, as mesh.shard(torch.arange(V), dim=0); who has a piece alone must ask the others: an
    all-gather of p whole numbers. (Megatron-LM has equal pieces, and multiplies: core/tensor_parallel/utils.py.)

    >>> import shardlab
    >>> mesh = shardlab.Mesh(2, devices=["cpu"])
    >>> words_of(mesh, mesh.shard(torch.randn(5, 3), dim=0)).shards
    [tensor([0, 1, 2]), tensor([3, 4])]
    """
    ones = [torch.ones(piece.shape[dim], dtype=torch.long, device=piece.device) for piece in piece_.shards]
    one_ = Shards(ones, mesh.root)
    lengths_ = mesh.all_gather(one_.sum(0, keepdim=True), dim=0)
    return one_.cumsum(0) - 1 + lengths_[: mesh.rank].sum()


def places(mesh, ids_, vocab_size):
    """Where each token lies in the piece of each shard (0 if it is another's), and whether it is there at all."""
    for rank, ids in zip(mesh.ranks, ids_.shards, strict=True):
        if ids.numel() and not 0 <= ids.min() <= ids.max() < vocab_size:
            raise IndexError(
                f"shard {rank} was given ids from {ids.min()} to {ids.max()}, and the vocabulary has 0 to "
                f"{vocab_size - 1}: no shard would have found them, and all would have given 0"
            )
    each, longer = divmod(vocab_size, mesh.size)  # the first `longer` pieces have one word more
    start_, length_ = mesh.rank * each + mesh.rank.clamp(max=longer), each + (mesh.rank < longer)
    place_ = ids_ - start_
    own_ = (place_ >= 0) & (place_ < length_)
    return place_.masked_fill(~own_, 0), own_


def refuse_another_cut(mesh, logits_, vocab_size):
    refuse_fewer_than_shards(mesh, vocab_size)
    sizes = split_sizes(vocab_size, mesh.size)
    for rank, logits in zip(mesh.ranks, logits_.shards, strict=True):
        if logits.shape[-1] != sizes[mesh.index(rank)]:
            raise ValueError(
                f"shard {rank} has logits {list(logits.shape)}, but of {vocab_size} words over {mesh.size} shards it "
                f"has {sizes[mesh.index(rank)]}: cut them with mesh.shard(…, dim=-1), and do not gather them"
            )


def refuse_fewer_than_shards(mesh, vocab_size):
    if vocab_size < mesh.size:
        raise ValueError(f"{vocab_size} words over {mesh.size} shards leave shard {vocab_size} without any")
