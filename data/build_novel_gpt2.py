"""Train a GPT-2 on the novel, with lesson 04's tokenizer and recipe, for lesson 11.

    python data/build_novel_gpt2.py

The shape is GPT-2's (LayerNorm, a learned vector for each position, GELU, biases), so that
`transformers.GPT2LMHeadModel` loads it. As GPT-2's training text has it, ``<|endoftext|>`` stands
before each document, here each chapter; it is token 512, the only special one. This writes, beside
this script or into --out, ``models/novel_gpt2/`` (float16) and its lines in SHA256SUMS. It takes
about two minutes of processor time. Another kind of processor adds in another order and so arrives
at slightly different weights.
"""

import argparse
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from aigc_utils import session

session.prepare()  # before the libraries that read it are imported

import torch
from build import HERE, write
from build_novel_gpt import RECIPE, VOCAB_SIZE, as_json, bits, model_files

from aigc_utils import data, training
from aigc_utils.gpt import GPT, GPTConfig
from aigc_utils.tokenizer import BPETokenizer

END = "<|endoftext|>"
MODEL = GPTConfig(vocab_size=VOCAB_SIZE + 1, context=128, n_layers=3, n_heads=3, d_model=192)
STEPS = 600


def encode(tokenizer: BPETokenizer, text: str) -> torch.Tensor:
    """Ids of a text with END, the id VOCAB_SIZE, before each chapter."""
    ids: list[int] = []
    for i, chapter in enumerate(re.split(r"(?m)^(?=Chapter \d+$)", text)):
        ids += [VOCAB_SIZE] * (i > 0) + tokenizer.encode(chapter)
    return torch.tensor(ids)


def files(model: GPT, tokenizer: BPETokenizer) -> dict[str, bytes]:
    """Return the files of the model as transformers reads them, END among the tokens."""
    found = model_files(model, tokenizer)
    theirs = tokenizer.to_huggingface()
    theirs.add_special_tokens([END])
    special = {"bos_token_id": VOCAB_SIZE, "eos_token_id": VOCAB_SIZE}
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END}
    return found | {
        "config.json": as_json(json.loads(found["config.json"]) | special),
        "tokenizer.json": theirs.to_str(pretty=True).encode() + b"\n",
        "tokenizer_config.json": as_json(names | {"model_max_length": MODEL.context}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer, to try it out")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=HERE)
    chosen = parser.parse_args()
    novel = data.split_text("pride_and_prejudice")
    parts = novel.train, novel.val, novel.open_test("lesson 04's recipe is fixed: report it")
    tokenizer = BPETokenizer.train(parts[0], VOCAB_SIZE)
    session.start(1)
    model = GPT(MODEL)
    model.init_weights(zero_branches=True)
    ids = encode(tokenizer, parts[0]), encode(tokenizer, parts[1])
    with tempfile.TemporaryDirectory() as folder:
        training.train(model, ids, replace(RECIPE, steps=chosen.steps, seed=1), folder)
    for name, part in zip(("validation", "test"), parts[1:], strict=True):
        plain = torch.tensor(tokenizer.encode(part))
        print(f"{name}: {bits(model, plain, len(part))} bits per character", flush=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, raw in files(model, tokenizer).items():
        write(chosen.out, f"models/novel_gpt2/{name}", raw)


if __name__ == "__main__":
    main()
