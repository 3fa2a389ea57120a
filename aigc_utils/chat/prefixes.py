"""What the local server has read before: the keys and values of earlier prompts (lesson 13).

A conversation is sent whole each turn, and all of it but the end was read the turn before. A prompt
that begins as an earlier one did takes that part from here; ``cached_tokens`` says how much.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformers import DynamicCache

if TYPE_CHECKING:
    import torch

LEAST = 128
"""Shorter beginnings are read again: the copy would hardly be worth it."""

STEP = 64
"""What is taken is a multiple of this, as providers do."""

ROOM = 8_192
"""Tokens that are kept: 190 MB of keys and values. The prompt used least recently goes first."""


class Prefixes:
    """Prompts and what each layer made of them; ``take`` and ``keep`` may come from any thread."""

    def __init__(self) -> None:
        self._known: dict[
            tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]
        ] = {}  # the most recently used comes last
        self._lock = threading.Lock()

    def take(self, prompt: Sequence[int]) -> tuple[DynamicCache, int]:
        """Return a cache of the longest known beginning of a prompt, a copy, and its length.

        The last token is never in it: somebody has to ask what comes next.
        """
        with self._lock:
            best = max(self._known, key=lambda known: _common(known, prompt), default=())
            length = min(_common(best, prompt), len(prompt) - 1) // STEP * STEP
            if length < LEAST:
                return DynamicCache(), 0
            layers = self._known[best] = self._known.pop(best)
        parts = [(keys[..., :length, :], values[..., :length, :]) for keys, values in layers]
        return DynamicCache(parts), length

    def keep(self, prompt: Sequence[int], cache: DynamicCache) -> None:
        """Keep what a prompt became; the answer that followed is left out."""
        length = len(prompt)
        if not LEAST <= length <= cache.get_seq_length() or length > ROOM:
            return
        layers = [(k[..., :length, :].clone(), v[..., :length, :].clone()) for k, v, *_ in cache]
        with self._lock:
            for known in [known for known in self._known if _common(known, prompt) == len(known)]:
                del self._known[known]  # the new one begins with it
            self._known[tuple(prompt)] = layers
            while sum(map(len, self._known)) > ROOM:
                del self._known[next(iter(self._known))]


def _common(known: Sequence[int], prompt: Sequence[int]) -> int:
    """Return how many tokens two prompts have in common at the beginning."""
    pairs = zip(known, prompt, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(known), len(prompt)))
