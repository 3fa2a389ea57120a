"""The race of decoders: its bytes are counted right, and it races and prints every contestant."""

import copy

import scripts
import torch
from test_decoding import random_model

from aigc_utils import decoding
from aigc_utils.gpt import LLAMA
from aigc_utils.huggingface import to_huggingface

decode = scripts.load("benchmarks/decode.py")


def contestants() -> dict:
    model = random_model(31, context=256, **LLAMA)
    theirs = to_huggingface(model)
    return {
        "transformers float32": theirs,
        "transformers bfloat16": copy.deepcopy(theirs).bfloat16(),
        "ours float32": model,
        "ours bfloat16": copy.deepcopy(model).bfloat16(),
        "ours int8": decoding.to_int8(model),
        "ours int4": decoding.to_int4(model),
    }


def test_bytes_are_those_of_the_weights_that_a_token_reads():
    nets = contestants()
    count = sum(w.numel() for w in nets["ours float32"].parameters())
    for name, size in (("float32", 4), ("bfloat16", 2)):
        assert decode.weight_bytes(nets[f"ours {name}"]) == size * count
        assert decode.weight_bytes(nets[f"transformers {name}"]) - size * count in range(200)
    matrices = [w for w in nets["ours float32"].parameters() if w.ndim == 2]
    rest = count - sum(w.numel() for w in matrices)
    rows = sum(
        len(w) for w in matrices
    )  # each has a scale of two bytes; the tied table is read once
    expected = sum(w.numel() for w in matrices) + 2 * rows + 2 * rest
    assert decode.weight_bytes(nets["ours int8"]) == expected


def test_turns_are_taken_in_order_and_the_first_is_not_counted():
    log = []

    def turn(name):
        return lambda: log.append(name) or len(log)

    measured = decode.by_turns({"a": turn("a"), "b": turn("b")}, 3)
    assert log == ["a", "b"] * 4 and measured == {"a": [3, 5, 7], "b": [4, 6, 8]}


@torch.inference_mode()
def test_every_contestant_is_raced_and_printed(capsys):
    nets, prompt = contestants(), torch.randint(40, (1, 9))
    errors = decode.differences(nets, prompt)
    assert errors["ours float32"] < 1e-5 < errors["ours bfloat16"] < 0.1 > errors["ours int8"]
    measured = decode.one_text(nets, prompt, 3)
    assert set(nets) < set(measured) and "ours bfloat16, products by oneDNN" in measured
    assert all(len(turns) == 3 and min(turns) > 0 for turns in measured.values())
    decode.batches(nets, prompt, 3)
    decode.drafts(nets, {"repeats": [3, 1, 4] * 5}, 3)
    printed = capsys.readouterr().out
    for name in nets:
        assert f"| {name} |" in printed
    assert "| ours float32, repeats |" in printed and "| 64 of 64 |" in printed
