"""Play lesson 08's games on the ring with five seeds each and write how they ended.

    python data/build_ring_games.py

This writes ``runs/ring_games.jsonl`` beside this script, or into --out, and its line in SHA256SUMS:
a row for each game with its modes, coverage, duplicates and alarms at the end, the mean of D's
last three losses, and the loss of a fresh D that was trained against the frozen generator. It takes
about three minutes on one core. Another kind of processor adds in another order: single games end
otherwise there.
"""

import json
from typing import Any

from build import out_folder, write

from aigc_utils import ring, session

GAMES: dict[str, dict[str, Any]] = {
    "healthy": {},
    "G runs ahead": dict(g_steps=3),
    "D runs ahead": dict(d_steps=8, d_rate=1e-2),
    "D is blind": dict(d_width=4),
    "G ahead, mended": dict(g_steps=3, d_steps=3),
    "D ahead, mended": dict(d_steps=8, d_rate=1e-2, gamma=1.0),
}
SEEDS = (1, 2, 3, 4, 5)  # the lesson itself plays seed 8


def play(rules: dict[str, Any], seed: int) -> dict[str, Any]:
    """Play one game; return its row."""
    run = ring.train(seed=seed, **rules)
    found = ring.report(run.frames[-1].cloud, ring.draw_real(1000).numpy())
    return {
        "living": found["living"],
        "coverage": round(found["coverage"], 3),
        "duplicates": round(found["duplicates"], 1),
        "alarms": found["alarms"],
        "d_loss": round(float(run.losses[-3:, 0].mean()), 3),
        "second_opinion": round(ring.second_opinion(run.game), 3),
    }


def main() -> None:
    out = out_folder(__doc__)
    session.start()
    rows: list[dict[str, Any]] = [{"settings": {"games": GAMES, "rounds": 2000}}]
    for name, rules in GAMES.items():
        for seed in SEEDS:
            rows.append({"run": name, "seed": seed, **play(rules, seed)})
            print(rows[-1], flush=True)
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    write(out, "runs/ring_games.jsonl", raw)


if __name__ == "__main__":
    main()
