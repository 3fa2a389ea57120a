"""One learning rate for narrow and wide models: the main rule of μP (lesson 06).

`final_loss(width, lr, mup=…)` trains a tiny GPT with AdamW. In the *standard* parametrisation all
weights share one rate, and the best one falls as the model grows. In μP the matrices that add up
`width` numbers take `lr · BASE_WIDTH / width`, so that what they compute moves equally far at every
width (Yang et al., *Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter
Transfer*, 2022, table 8). The rest of their table holds for both parametrisations here: matrices
begin with variance 1 / fan-in and the head at zero; heads are equally wide at every width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aigc_utils import lab, training
from aigc_utils.gpt import GPT, LLAMA, GPTConfig

BASE_WIDTH = 16  # where both parametrisations are the same
HEAD_DIM = 16
RECIPE = training.TrainConfig(steps=100, batch_size=8, warmup=0.1)
CONTEXT = 64


def model_of(width: int) -> GPT:
    """A GPT with two blocks whose first activations have the same size at every width."""
    config = GPTConfig(
        vocab_size=lab.VOCAB_SIZE,
        context=CONTEXT,
        n_layers=2,
        n_heads=width // HEAD_DIM,
        d_model=width,
        d_mlp=2 * width,
        tied=False,
        **LLAMA,
    )
    model = GPT(config)
    model.init_weights()
    with torch.no_grad():
        model.embedding.weight.normal_(std=1.0)
        model.head.weight.zero_()
        for weight in model.blocks.parameters():
            if weight.ndim == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)
    return model


def optimizer(model: GPT, lr: float, *, mup: bool) -> torch.optim.Optimizer:
    """AdamW at `lr`; with `mup` the matrices, head included, at `lr` · BASE_WIDTH / width."""
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, weight in model.named_parameters():
        a_matrix = weight.ndim == 2 and not name.startswith("embedding")
        (matrices if a_matrix else rest).append(weight)
    slower = BASE_WIDTH / model.config.d_model if mup else 1.0
    groups = [{"params": matrices, "lr": lr * slower}, {"params": rest, "lr": lr}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True)


def final_loss(width: int, lr: float, *, mup: bool, seed: int = 0) -> float:
    """Train on 51,200 tokens of the novel; return the validation loss in nats per token."""
    train_ids, val_ids = lab.novel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_of(width)
        optimizers = [optimizer(model, lr, mup=mup)]
        batches = training.windows(len(train_ids), CONTEXT, RECIPE.batch_size, seed)
        for step in range(RECIPE.steps):
            x, y = training.cut(train_ids, next(batches), CONTEXT)
            factor = training.schedule(step, RECIPE)
            training.step(model, optimizers, x, y, factor=factor, clip=RECIPE.clip)
        return training.evaluate(model, val_ids[: lab.VALIDATION_TOKENS + 1])
