"""The step that reads one token, with little beside its products (lesson 05).

Writing one text, a model reads one token at a time: every weight is fetched for one multiplication,
and some 25 small operations a layer each take microseconds to start. `forward` gives the logits of
`GPT.forward`, up to the order of sums, with

- **products that read in order**: for bfloat16 PyTorch asks oneDNN, whose kernels are made for many
  rows; with a single row, PyTorch's own loop along each row of the matrix fetches sooner;
- **fewer small operations**: the RMS from one norm, queries and keys turned together by one
  multiply-add, the gate multiplied in place, no module calls around them.

`aigc_utils.decoding` comes here by itself; `benchmarks/decode.py` says what each idea gives.

Shapes: B texts, D `d_model`, H `n_heads`, G `n_kv_heads`, d `head_dim`, S tokens read so far.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc_utils.gpt import GPT, MLP, Attention, Block, KVCache, RMSNorm

_OURS = {GPT, Block, Attention, MLP, RMSNorm, nn.LayerNorm}


def takes(model: GPT) -> bool:
    """Is every part what `aigc_utils.gpt` builds, with nobody listening to its calls?

    A learner's own attention, a hook or a replaced `forward` are called as modules are, by
    `model(ids, cache)`.
    """
    parts: list[Any] = [model]
    block: Any
    for block in model.blocks if type(model) is GPT else ():
        parts += block, block.attention, block.mlp, block.norm1, block.norm2
    return all(type(part) in _OURS and not _watched(part) for part in parts)


def _watched(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks or "forward" in part.__dict__)


def forward(model: GPT, ids: Tensor, cache: KVCache) -> Tensor:
    """Return logits (B, 1, vocab_size) for one more token of each text, ids (B, 1).

    For inference, with ids that were checked and a cache with room for them: as `model(ids, cache)`
    without dropout.
    """
    c, past = model.config, cache.used
    block: Any
    x = model.embedding(ids[:, 0])
    if c.ngram_buckets:
        x = x + model.ngrams(cache.recall(ids))[:, -1]
    rope = None
    if c.positions == "learned":
        x = x + model.position.weight[past]
    else:
        rope = model.cos[past].to(x.dtype), _signed(model.sin[past]).to(x.dtype)
    with products_in_order(len(x) == 1):
        for layer, block in enumerate(model.blocks):
            x = x + _attention(block.attention, norm(block.norm1, x), rope, cache, layer)
            x = x + _mlp(block.mlp, norm(block.norm2, x))
        cache.used += 1
        x = norm(model.norm, x)
        logits = F.linear(x, model.embedding.weight) if c.tied else model.head(x)
    return logits[:, None]


@contextlib.contextmanager
def products_in_order(one_row: bool) -> Iterator[None]:
    """Multiply without oneDNN where there is one row.

    oneDNN reads sixteen or more rows of a bfloat16 matrix side by side, which is right for many
    products and slow for the first look at each number. The switch is the process's own: another
    thread that multiplies meanwhile gets the same results, perhaps more slowly.
    """
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(before and not one_row)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def norm(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a norm of `GPT` to x (…, width); RMSNorm from one sum of squares, in float32."""
    if not isinstance(module, RMSNorm):
        return module(x)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = (length * length / x.shape[-1] + module.eps).rsqrt_()
    if scale.numel() == 1:  # a number alone has no say in the type of the product
        scale = scale.view(())
    return (x * scale).to(x.dtype) * module.weight


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x (…, d) by one position's angles as `gpt.rotate` does; `sin` has its signs."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _signed(sin: Tensor) -> Tensor:
    """Return sin (d,) with its first half negative: (a, b) becomes (a cos - b sin, …)."""
    first, second = sin.chunk(2)
    return torch.cat((-first, second))


def _attention(
    attention: Attention,
    x: Tensor,
    rope: tuple[Tensor, Tensor] | None,
    cache: KVCache,
    layer: int,
) -> Tensor:
    """Let x (B, D), the last token, look at all that `cache` holds and at itself."""
    c = attention.config
    H, G, d = c.n_heads, c.kv_heads, c.head_dim
    heads = attention.qkv(x).view(len(x), H + 2 * G, d)
    turned, v = heads[:, : H + G], heads[:, H + G :]  # queries and keys; values
    if c.qk_norm:
        q, k = turned[:, :H], turned[:, H:]
        turned = torch.cat((norm(attention.q_norm, q), norm(attention.k_norm, k)), dim=1)
    if rope is not None:
        turned = turn(turned, *rope)
    q, k = turned[:, :H], turned[:, H:, None]
    keys, values = cache.extend(layer, k, v[:, :, None])  # (B, G, S, d)
    # The query heads that share keys become rows: nothing has to be copied.
    y = F.scaled_dot_product_attention(q.reshape(len(x), G, -1, d), keys, values)
    return attention.out(y.reshape(len(x), H * d))


def _mlp(mlp: MLP, x: Tensor) -> Tensor:
    if mlp.kind != "swiglu":
        return mlp(x)
    gate, up = mlp.up(x).chunk(2, dim=-1)
    return mlp.down(F.silu(gate).mul_(up))
