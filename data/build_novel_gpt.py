"""Train lesson 04's GPT on the novel from three seeds; write the first one and the record of all.

    python data/build_novel_gpt.py

The recipe is the lesson's: the tokenizer and the model see the first eight tenths of the novel,
the ninth is for validation and the last is the test set. This writes, beside this script or into
--out, ``models/novel_gpt/`` (seed 1, float16, as `transformers.AutoModelForCausalLM` loads it),
``runs/novel_gpt.jsonl`` (the losses of all seeds, and their bits per character at the end) and
their lines in SHA256SUMS. It takes about three minutes on 2 cores. Another kind of processor adds
in another order and so arrives at slightly different weights.
"""

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from aigc_utils import session

session.prepare()  # before the libraries that read it are imported

import torch
from build import HERE, write
from safetensors.torch import save

from aigc_utils import data, history, training
from aigc_utils.gpt import GPT, GPTConfig
from aigc_utils.huggingface import to_huggingface
from aigc_utils.tokenizer import BPETokenizer

VOCAB_SIZE = 512
MODEL = GPTConfig(vocab_size=VOCAB_SIZE, **training.SMALL_GPT)
RECIPE = replace(training.SMALL_RUN, steps=400)
SEEDS = (1, 2, 3)
OVERLAP = 64  # tokens of each window that only give context, when the test text is scored


def train(seed: int, ids: list[torch.Tensor], recipe: training.TrainConfig) -> tuple[GPT, list]:
    """Train from one seed; return the model and the rows of its history, without the seconds."""
    session.start(seed)
    model = GPT(MODEL)
    model.init_weights(zero_branches=True)
    with tempfile.TemporaryDirectory() as folder:
        run = training.train(model, (ids[0], ids[1]), replace(recipe, seed=seed), folder)
    return model, [{k: v for k, v in row.items() if k != "seconds"} for row in run.rows]


def bits(model: GPT, ids: torch.Tensor, characters: int, overlap: int = 0) -> float:
    """Bits per character of a text, to four digits."""
    loss = training.evaluate(model, ids, overlap=overlap)
    return round(training.bits_per_character(loss, len(ids), characters, VOCAB_SIZE), 4)


def model_files(model: GPT, tokenizer: BPETokenizer) -> dict[str, bytes]:
    """Return the files of the model as transformers reads them; the weights in half precision."""
    exported = to_huggingface(model)
    # Tied weights are one tensor and are stored once.
    weights = {
        name: value for name, value in exported.state_dict().items() if name != "lm_head.weight"
    }
    half = {name: value.to(torch.float16).contiguous() for name, value in weights.items()}
    # "float32" makes transformers compute in single precision, which CPUs do well.
    config = exported.config.to_diff_dict() | {
        "architectures": [type(exported).__name__],
        "dtype": "float32",
    }
    return {
        "config.json": as_json(config),
        "model.safetensors": save(half, metadata={"format": "pt"}),
        "tokenizer.json": tokenizer.to_huggingface().to_str(pretty=True).encode() + b"\n",
        "tokenizer_config.json": as_json({"tokenizer_class": "PreTrainedTokenizerFast"}),
    }


def as_json(content: dict) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=RECIPE.steps, help="fewer, to try it out")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=HERE)
    chosen = parser.parse_args()
    recipe = replace(RECIPE, steps=chosen.steps)
    novel = data.split_text("pride_and_prejudice")
    parts = novel.train, novel.val, novel.open_test("lesson 04's recipe is fixed: report it")
    tokenizer = BPETokenizer.train(parts[0], VOCAB_SIZE)
    ids = [torch.tensor(tokenizer.encode(part)) for part in parts]
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.jsonl"
        with history.Run(path, model=asdict(MODEL), training=asdict(recipe)) as run:
            for seed in SEEDS:
                model, rows = train(seed, ids, recipe)
                for row in rows:
                    run.log(seed=seed, **row)
                end = {
                    "val_bits": bits(model, ids[1], len(parts[1])),
                    "test_bits": bits(model, ids[2], len(parts[2])),
                    "test_bits_overlapping": bits(model, ids[2], len(parts[2]), OVERLAP),
                }
                run.log(seed=seed, **end)
                print(f"seed {seed}: {end}", flush=True)
                if seed == SEEDS[0]:
                    for name, raw in model_files(model, tokenizer).items():
                        write(chosen.out, f"models/novel_gpt/{name}", raw)
        write(chosen.out, "runs/novel_gpt.jsonl", path.read_bytes())


if __name__ == "__main__":
    main()
