"""Language models by name: the course's own, a folder's or the hub's (lessons 11 and 13).

`load()` gives the course's chat model, which `aigc_utils.smollm2` takes out of its wheel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_utils import data
from aigc_utils.smollm2 import NAME, ModelError, convert

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("bfloat16", "float32", "float16")


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


def load(name: str | os.PathLike[str] = NAME, dtype: str = "bfloat16") -> ChatModel:
    """Load a language model; `.why` says which one was taken and why.

    `name` is one of

    - ``"course/smollm2"``: the course's chat model, converted at the first call;
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
        raise ModelError(f"The name is empty: give {NAME!r}, 'novel', a folder or a hub name.")
    if name == NAME:
        why = "The bundled chat model SmolLM2-135M-Instruct was taken, which is the default."
        return _from_folder(convert(), NAME, dtype, why)
    if name == "novel":
        why = "The course's GPT of lesson 04 was taken, because it was asked for by name."
        return _from_folder(data.folder("models/novel_gpt"), name, dtype, why)
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
    try:
        model = to_huggingface(GPT.load(folder)).to(getattr(torch, dtype))
    except ValueError as error:
        raise ModelError(str(error)) from None
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
    except ModelError:
        raise
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
    # A model's files are numbers and text: code that comes with them is never run, nor asked for.
    options: dict[str, Any] = {"local_files_only": offline, "trust_remote_code": False}
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        source,
        dtype=getattr(torch, dtype),
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are reported, and refused below
        **options,
    )
    model, report = loaded
    # What is missing or does not fit is filled with random numbers, and nothing is said.
    unfit = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if unfit:
        raise ModelError(
            f"{len(unfit)} weights of {name!r} are missing or have another shape than its "
            f"config.json says, {unfit[0]} among them: export or download the whole model again."
        )
    # Both remember, and print, where they came from: a plain name, not a path of this machine.
    tokenizer.name_or_path = model.name_or_path = model.config._name_or_path = name
    return ChatModel(model.eval(), tokenizer, name, folder, why)


def _short(error: Exception) -> str:
    """First line of an error, short enough for a sentence."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"
