"""The cells that train, on a processor without units for bfloat16, which most laptops have.

Two variables make PyTorch behave as on one. A whole lesson is tried with them in the same way:
`ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 pytest --nbval notebooks/04_pretraining.ipynb`.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from aigc_utils import lab

PLAIN = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
CODE = """
import json, time
from dataclasses import replace
import torch
from aigc_utils import lab, training
from aigc_utils.gpt import GPT, GPTConfig
torch.set_num_threads(1)  # so that processor seconds mean the same beside other programs

def seconds(shape, config):
    model = GPT(shape)
    optimizers = training.make_optimizers(model, config)
    bf16 = training.bf16_pays() if config.bf16 is None else config.bf16
    ids = torch.randint(512, (config.batch_size, shape.context + 1))
    times = []
    for _ in range(4):
        begin = time.process_time()
        training.step(model, optimizers, ids[:, :-1], ids[:, 1:], clip=1.0, bf16=bf16)
        times.append(time.process_time() - begin)
    return min(times[1:])

recipes = {
    "lesson 04": (GPTConfig(vocab_size=512, **training.SMALL_GPT), training.SMALL_RUN),
    "lesson 06": (lab.model_config(lab.Knobs()), lab.recipe(lab.Knobs(), 100)),
}
ratios = {
    name: seconds(shape, config) / seconds(shape, replace(config, optimizer="adamw", bf16=False))
    for name, (shape, config) in recipes.items()
}
rows = lab.run(lab.Knobs(), tokens=20 * 8 * 64).rows
print(json.dumps([torch.backends.cpu.get_cpu_capability(), ratios, [r["val_loss"] for r in rows]]))
"""


@pytest.mark.slow
def test_training_costs_and_finds_about_the_same():
    ran = subprocess.run(
        [sys.executable, "-c", CODE], env={**os.environ, **PLAIN}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    processor, ratios, losses = json.loads(ran.stdout)
    if processor != "AVX2":
        pytest.skip(f"this processor cannot behave like one with AVX2 alone: {processor}")
    # A step of the lesson's recipe against one of AdamW in float32; torch.optim.Muon takes nine.
    assert max(ratios.values()) < 2, ratios
    here = lab.run(lab.Knobs(), tokens=20 * 8 * 64).column("val_loss")
    np.testing.assert_allclose(losses, here, rtol=1e-3)
