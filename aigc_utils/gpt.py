"""A decoder-only transformer in one file (lesson 03 builds it, lesson 05 adds the cache).

One class serves two families. **GPT-2** (Radford et al., *Language Models are Unsupervised
Multitask Learners*, 2019): LayerNorm, a learned vector per position, an MLP with GELU, biases,
output head tied to the embedding. **Llama** (Touvron et al., *LLaMA*, 2023), with Qwen3 (Yang et
al., 2025) as its variant that normalises queries and keys: RMSNorm (Zhang & Sennrich, 2019),
rotary positions (Su et al., *RoFormer*, 2021), a gated MLP (Shazeer, *GLU Variants Improve
Transformer*, 2020), key/value heads shared by several query heads (Ainslie et al., *GQA*, 2023),
no biases. `GPTConfig` says which: the defaults are GPT-2, `GPTConfig(..., **LLAMA)` is Llama.
Either can be given a counting model's memory, `NgramEmbedding`: lesson 06 says what it is worth.
`aigc_utils.huggingface` converts to and from the classes of transformers.

Shapes: B batch, T time (tokens), D `d_model`, H `n_heads`, G `n_kv_heads`, d `head_dim`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aigc_utils import files

# The choices that turn the GPT-2 defaults below into a Llama: GPTConfig(vocab_size=…, **LLAMA).
LLAMA: dict[str, Any] = {"norm": "rms", "positions": "rotary", "mlp": "swiglu", "bias": False}

ACTIVATIONS = {
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),  # GPT-2
    "gelu": F.gelu,  # nanoGPT: the exact GELU
    "relu2": lambda x: F.relu(x) * F.relu(x),  # So et al., Primer, 2021
}


@dataclass(frozen=True)
class GPTConfig:
    """Everything that fixes the shape of a `GPT`; the defaults are a small GPT-2."""

    vocab_size: int
    context: int = 64  # the longest sequence, in tokens
    n_layers: int = 4
    n_heads: int = 4
    d_model: int = 128
    n_kv_heads: int | None = None  # None: as many as n_heads (no sharing)
    d_mlp: int | None = None  # None: 4 * d_model
    norm: str = "layer"  # "layer" | "rms"
    positions: str = "learned"  # "learned" | "rotary"
    mlp: str = "gelu_tanh"  # "gelu_tanh" | "gelu" | "relu2" | "swiglu" (gated)
    bias: bool = True
    qk_norm: bool = False  # RMSNorm on every query and key (Qwen3)
    ngram_buckets: int = 0  # rows of a hashed table of n-grams; 0: none
    ngram_longest: int = 3  # … which holds those of 2, 3, … this many tokens
    tied: bool = True  # the output head is the embedding, transposed
    dropout: float = 0.0  # on the embedding and on what each branch adds
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        options = {
            "norm": ("layer", "rms"),
            "positions": ("learned", "rotary"),
            "mlp": (*ACTIVATIONS, "swiglu"),
        }
        for name, allowed in options.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {allowed}.")
        for name in ("vocab_size", "context", "n_layers", "n_heads", "d_model"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.ngram_buckets < 0:
            raise ValueError(f"ngram_buckets={self.ngram_buckets} must not be negative.")
        if self.ngram_longest < 2:
            raise ValueError(f"ngram_longest={self.ngram_longest} must be at least 2: bigrams.")
        if self.d_model % self.n_heads:
            raise ValueError(
                f"d_model={self.d_model} must be a multiple of n_heads={self.n_heads}: "
                "every head gets an equal slice."
            )
        if self.n_heads % self.kv_heads:
            raise ValueError(
                f"n_heads={self.n_heads} must be a multiple of n_kv_heads={self.kv_heads}: "
                "every key/value head serves the same number of query heads."
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"Rotary positions turn pairs, so d_model / n_heads = {self.head_dim} must be even."
            )

    @property
    def head_dim(self) -> int:
        """Width of one head, d_model / n_heads."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def mlp_width(self) -> int:
        """Width of the MLP's hidden layer."""
        return self.d_mlp or 4 * self.d_model


def check_ids(
    ids: Any, vocab_size: int, *, name: str = "input", ndims: tuple[int, ...] = (1, 2)
) -> Tensor:
    """Return token ids as int64, (T,) or (B, T); a ValueError says in a sentence what is wrong.

    Tensors, NumPy arrays and (nested) lists of any integer type are read, uint16 files such as
    nanoGPT's included. `name` is what the sentence calls them, `ndims` the shapes that are allowed.
    """
    shapes = " or ".join({1: "(T,)", 2: "(B, T)"}[n] for n in ndims)
    try:
        tensor = ids if isinstance(ids, Tensor) else torch.tensor(ids)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"The {name} must be integers of shape {shapes}, not {type(ids).__name__}: encode a "
            "text first, and make the rows of a batch equally long."
        ) from None
    if tensor.numel() == 0:
        raise ValueError(f"The {name} is empty: give at least one token.")
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.ndim not in ndims or "int" not in kind:
        raise ValueError(
            f"The {name} must be integers of shape {shapes}, not {kind} of shape "
            f"{tuple(tensor.shape)}."
        )
    tensor = tensor.long()
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"Token ids must lie in 0…{vocab_size - 1} (vocab_size {vocab_size}), but "
            f"{low if low < 0 else high} is among them: was another tokenizer used?"
        )
    return tensor


class KVCache:
    """Keys and values of the tokens read so far, so that they are computed once.

    Holds 2 · n_layers · batch · n_kv_heads · length · head_dim numbers; `length` defaults to the
    model's context. Pass the same cache to every call: `model(next_ids, cache)`. It has to lie on
    the model's device, `device=model.device`, and have its precision.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch: int = 1,
        length: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        rows = config.context if length is None else min(length, config.context)
        shape = (config.n_layers, batch, config.kv_heads, rows, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        # Only a table of n-grams looks back on the ids themselves.
        remembered = rows if config.ngram_buckets else 0
        self.ids = torch.empty(batch, remembered, dtype=torch.int64, device=device)
        self.back = config.ngram_longest - 1
        self.used = 0  # tokens stored; `GPT.forward` moves it on once all layers have written

    def recall(self, ids: Tensor) -> Tensor:
        """Store ids (B, T) after what is there; return them with those that n-grams reach."""
        end = self.used + ids.shape[1]
        self.ids[:, self.used : end] = ids
        return self.ids[:, max(0, self.used - self.back) : end]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k and v (B, G, T, d) after what is there; return all of this layer's so far."""
        end = self.used + k.shape[2]
        self.keys[layer, :, :, self.used : end] = k
        self.values[layer, :, :, self.used : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class RMSNorm(nn.RMSNorm):
    """x / √(mean(x²) + eps) · weight over the last axis, in the precision of x."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (…, width); mixed precision needs the weight cast to match."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def make_norm(config: GPTConfig) -> nn.Module:
    """LayerNorm or RMSNorm over the last axis, of width d_model."""
    if config.norm == "rms":
        return RMSNorm(config.d_model, eps=config.norm_eps)
    return nn.LayerNorm(config.d_model, eps=config.norm_eps, bias=config.bias)


def rotary_tables(config: GPTConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine, (context, head_dim), of angle position · theta^(-2i/d) (RoFormer, eq. 15).

    Pair i is the coordinates i and i + d/2 (the Llama layout; the paper pairs neighbours).
    """
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(config.context).float(), 1.0 / config.rope_theta**half)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of coordinates of x (B, heads, T, d) by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class NgramEmbedding(nn.Module):
    """Vectors for the last two, three, … `ngram_longest` tokens, looked up in a hashed table.

    A counting model knows at once what follows "q", a transformer must first learn to look back.
    Here it is handed that memory: a row for each length, added to the token's embedding. Strings
    that collide share a row (Svenstrup et al., *Hash Embeddings*, 2017; for language models Huang
    et al., *Over-Tokenized Transformer*, 2025).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.base = config.vocab_size + 1  # 0 stands for "before the beginning"
        self.longest = config.ngram_longest
        self.table = nn.Embedding(config.ngram_buckets, config.d_model)

    def forward(self, ids: Tensor) -> Tensor:
        """Return vectors (B, T, D) for ids (B, T); the first tokens have less to look back on."""
        tokens = F.pad(ids + 1, (self.longest - 1, 0)).unfold(1, ids.shape[1], 1)
        key, *older = tokens.unbind(1)[::-1]  # each (B, T); the last token first
        keys = []
        for n, token in enumerate(older, start=1):
            digit = token if n == 1 else token + self.base  # so that lengths do not meet
            key = key + digit * (self.base**n % 2**63)  # past int64 the sum wraps: still a hash
            keys.append(key)
        # Multiplying by a large odd number spreads neighbours (Knuth's multiplicative hashing).
        rows = (torch.stack(keys) * 2_654_435_761 >> 8) % self.table.num_embeddings
        return self.table(rows).sum(0)


class Attention(nn.Module):
    """Causal self-attention with several heads: the only place where tokens meet."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        width = (config.n_heads + 2 * config.kv_heads) * config.head_dim
        self.qkv = nn.Linear(config.d_model, width, bias=config.bias)
        self.out = nn.Linear(config.d_model, config.d_model, bias=config.bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, eps=config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, eps=config.norm_eps)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: KVCache | None,
        layer: int,
    ) -> Tensor:
        """Read x (B, T, D), mix along T, return (B, T, D); `layer` is this block's cache row."""
        c, (B, T, D) = self.config, x.shape
        heads = self.qkv(x).view(B, T, -1, c.head_dim).transpose(1, 2)  # (B, H + 2G, T, d)
        q, k, v = heads.split((c.n_heads, c.kv_heads, c.kv_heads), dim=1)
        if c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        y = attend(q, k, v, mask)
        return self.out(y.transpose(1, 2).reshape(B, T, D))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √d + mask) v for q (B, H, T, d) and k, v (B, G, S, d); mask (T, S).

    No mask: T is 1, and the token sees all S. While gradients are recorded the formula is written
    out: at the short contexts of this course it trains faster on a CPU than the fused kernel,
    which takes over for inference.
    """
    if mask is None:  # the query heads that share keys become rows: nothing has to be copied
        B, G, _, d = k.shape
        return F.scaled_dot_product_attention(q.reshape(B, G, -1, d), k, v).reshape(q.shape)
    shared = q.shape[1] // k.shape[1]
    if shared > 1:  # each key/value head serves `shared` query heads in a row
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
    if not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
    scores = (q * q.shape[-1] ** -0.5) @ k.mT + mask.to(q.dtype)
    return scores.softmax(dim=-1) @ v


class MLP(nn.Module):
    """Two linear maps with a bend between them, applied to every token alone."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.kind = config.mlp
        width = config.mlp_width * (2 if self.kind == "swiglu" else 1)
        self.up = nn.Linear(config.d_model, width, bias=config.bias)
        self.down = nn.Linear(config.mlp_width, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, T, D) to (B, T, D)."""
        x = self.up(x)
        if self.kind == "swiglu":  # one half opens and closes the gates of the other
            gate, x = x.chunk(2, dim=-1)
            return self.down(F.silu(gate) * x)
        return self.down(ACTIVATIONS[self.kind](x))


class Block(nn.Module):
    """Attention, then MLP; each reads a normalised copy of the stream and adds to it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm1, self.attention = make_norm(config), Attention(config)
        self.norm2, self.mlp = make_norm(config), MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: KVCache | None,
        layer: int,
    ) -> Tensor:
        """Return the stream x (B, T, D) after this block."""
        x = x + self.dropout(self.attention(self.norm1(x), rope, mask, cache, layer))
        return x + self.dropout(self.mlp(self.norm2(x)))


class GPT(nn.Module):
    """ids (B, T) -> logits (B, T, vocab_size): row t scores the token that follows token t."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.position = nn.Embedding(config.context, config.d_model)
        else:
            cos, sin = rotary_tables(config)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        if config.ngram_buckets:
            self.ngrams = NgramEmbedding(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = make_norm(config)
        if not config.tied:
            self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.init_weights()

    @property
    def device(self) -> torch.device:
        """Where the weights lie, and so where everything is computed."""
        return self.embedding.weight.device

    @torch.no_grad()
    def init_weights(self, zero_branches: bool = False) -> None:
        """Draw fresh weights: normal with standard deviation 0.02, biases 0, norms 1.

        The last map of each branch gets 0.02 / √(2 · n_layers), so that the sum of all branches
        keeps its size (GPT-2, section 2.3), or zeros with `zero_branches`: each block then starts
        as the identity (Zhang et al., *Fixup*, 2019). The table of n-grams starts at zero.
        """
        for name, weight in self.named_parameters():
            if name.endswith("bias") or name.startswith("ngrams"):
                nn.init.zeros_(weight)
            elif weight.ndim == 1:
                nn.init.ones_(weight)
            elif name.endswith(("attention.out.weight", "mlp.down.weight")):
                std = 0.0 if zero_branches else 0.02 / math.sqrt(2 * self.config.n_layers)
                nn.init.normal_(weight, std=std)
            else:
                nn.init.normal_(weight, std=0.02)

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits for every position of ids (B, T), integers; with a cache, ids continue it.

        Computes on the model's own device, wherever `ids` lie. Raises ValueError when ids have
        another shape or type, lie outside the vocabulary, or do not fit the context.
        """
        past = 0 if cache is None else cache.used
        ids = check_ids(ids, self.config.vocab_size, ndims=(2,)).to(self.device)
        T, context = ids.shape[1], self.config.context
        if past + T > context:
            raise ValueError(
                f"The input is {past + T} tokens long and the model's context is {context}: "
                f"keep the last {context}."
            )
        x = self.embedding(ids)
        if self.config.ngram_buckets:
            x = x + self.ngrams(ids if cache is None else cache.recall(ids))[:, -T:]
        rope = None
        if self.config.positions == "learned":
            x = x + self.position.weight[past : past + T]
        else:
            rope = self.cos[past : past + T].to(x.dtype), self.sin[past : past + T].to(x.dtype)
        mask = None  # a single token, the last one, may see everything
        if T > 1:  # token t may see the past and itself: -inf above the diagonal becomes weight 0
            mask = torch.full((T, past + T), -math.inf, device=x.device).triu(past + 1)
        x = self.dropout(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, rope, mask, cache, layer)
        if cache is not None:
            cache.used += T
        x = self.norm(x)
        return F.linear(x, self.embedding.weight) if self.config.tied else self.head(x)

    def save(self, folder: str | Path) -> None:
        """Write config.json and weights.safetensors into `folder`, each at once or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        files.write_whole(folder / "config.json", json.dumps(asdict(self.config), indent=2) + "\n")
        with files.replacing(folder / "weights.safetensors") as part:
            save_file(weights, part, metadata={"sha256": _checksum(weights)})

    @classmethod
    def load(cls, folder: str | Path) -> GPT:
        """Read what `save` wrote; the model comes back on the CPU and in evaluation mode.

        Raises FileNotFoundError where there is no model, and ValueError for files that are damaged
        or do not belong together. Nothing in them is run as code.
        """
        folder = Path(folder)
        for name in ("config.json", "weights.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"The folder {str(folder)!r} holds no {name}: give one that `GPT.save` wrote, "
                    "such as a run's `best`."
                )
        try:
            config = GPTConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{folder / 'config.json'} does not describe a GPT ({error}): save the model again."
            ) from None
        model = cls(config)
        model.load_state_dict(_read_weights(folder / "weights.safetensors", model.state_dict()))
        return model.eval()


def _read_weights(file: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in `file`, whole and as `save` wrote them; `expected` has their shapes."""
    try:
        with safe_open(file, framework="pt") as opened:
            checksum = (opened.metadata() or {}).get("sha256")
        weights = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}): save or train the model again.") from None
    for name in sorted(weights.keys() | expected.keys()):
        ours, theirs = (tuple(w[name].shape) if name in w else None for w in (expected, weights))
        if ours != theirs:
            raise ValueError(
                f"{file} does not belong to the config.json beside it: {name} should be "
                f"{ours or 'absent'} and is {theirs or 'missing'}. Save the model again."
            )
    if checksum not in (None, _checksum(weights)):  # files of other programs have none
        raise ValueError(
            f"{file} is damaged: its numbers are not those that were saved. Save or train the "
            "model again."
        )
    return weights


def _checksum(weights: dict[str, Tensor]) -> str:
    """sha256 over the names and the bytes of all weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()
