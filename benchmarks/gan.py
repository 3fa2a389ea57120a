"""Race the course's GAN against Keras's published examples: the same pictures, equal knowledge.

    python benchmarks/gan.py --race FOLDER --seconds 90 --json race.json
    python benchmarks/gan.py --record FOLDER --jsonl data/runs/gan_race.jsonl

Both train on the 20,000 committed pictures of Fashion-MNIST, from three seeds, one process each. Of
four contestants two know the classes of the pictures and two do not; compare within a pair. The
first command gives each so many seconds of the clock on the wall and scores what it then makes. The
second follows each for many pictures and keeps what it makes at milestones: a record of the
distance over time, which shows what the first cannot, whether a rival has learned yet. What FOLDER
holds already, with the same settings, is not trained again, so that a record can be made in pieces,
``--contestants`` and ``--seeds`` naming those of one piece.

Seconds begin when the first call of the compiled graph (8 steps) is over, because that call is
mostly compilation; building, generating and scoring do not count. The rule is the same for all. The
record counts pictures while it trains, and takes each contestant's speed from short runs by turns
just before it scores, so that an hour in which the machine had other work does no harm.

Scores compare 10,000 pictures with the 10,000 test pictures when the files of Debian's
``dataset-fashion-mnist`` are at hand (--dataset FOLDER, or its place in the system), else with the
4,000 committed ones. Three nets give the features: every choice of ours was made with ``course``
and other pictures; ``judge`` and ``transformer``, of another architecture, served no choice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import gan_contestants as contestants
import numpy as np
from gan_contestants import CLOCKS, CONTESTANTS

from aigc_utils import data, features, files, history, scores

N_PICTURES = 10_000
N_COVERAGE = 5_000
SEEDS = (1, 2, 3)
NETS = ("course", "judge", "transformer")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
MILESTONES = (10_000, 20_000, 40_000, 80_000, 120_000, 160_000)
OURS_GOES_ON = (320_000, 480_000, 640_000)  # ours would end in a minute and a half
PAIRS = (("ours", "keras-conditional"), ("ours-unlabelled", "keras-dcgan"))  # equal knowledge
FLAT = 0.1  # a curve whose last quarter of pictures takes off less than this share is flat

Measured = dict[str, Any]


# Training, in a process each ---------------------------------------------------------------------


def write(file: Path, images: np.ndarray, run: Measured) -> None:
    """Write generated ``images`` and ``run``, a JSON text, to one .npz file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(file) as part, part.open("wb") as stream:
        np.savez_compressed(stream, images=images, run=json.dumps(run))


def train_for_seconds(
    folder: Path, name: str, seed: int, seconds: float, clock: str, n: int
) -> None:
    """Train one contestant for so many seconds and write n pictures."""
    contestant = CONTESTANTS[name]
    stopwatch = contestants.Stopwatch(seconds, CLOCKS[clock])
    model = contestant.build(seed)
    contestant.fit(model, seed, stopwatch)
    pictures = stopwatch.calls * model.steps_per_execution * contestant.batch
    run = {"contestant": name, "seed": seed, "seconds": seconds, "clock": clock, "generated": n}
    run |= {"pictures": pictures, "pictures_per_second": round(pictures / seconds)}
    write(race_file(folder, name, seed), model.generate(n, seed), run)
    print(f"{name}, seed {seed}: {pictures:,} pictures seen, {pictures / seconds:,.0f} a second")


def train_to_milestones(folder: Path, name: str, seed: int, marks: Sequence[int], n: int) -> None:
    """Train one contestant to the last mark and write n pictures untrained and at each mark."""
    contestant = CONTESTANTS[name]
    model = contestant.build(seed)

    def reached(pictures: int, seconds: float) -> None:
        run = {"contestant": name, "seed": seed, "pictures": pictures, "generated": n}
        run |= {"processor_seconds": round(2 * seconds, 1), "last": max(marks)}
        write(record_file(folder, name, seed, pictures), model.generate(n, seed), run)
        print(f"{name}, seed {seed}: {pictures:,} pictures, {2 * seconds:.0f} processor seconds")

    reached(0, 0.0)
    contestant.fit(model, seed, contestants.Milestones(marks, contestant.batch, reached))


def race_file(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}_{seed}.npz"


def record_file(folder: Path, name: str, seed: int, pictures: int) -> Path:
    return folder / f"{name}_{seed}_{pictures}.npz"


def read_run(file: Path) -> Measured:
    """Return what a written file says about its run, {} when there is no such file."""
    if not file.exists():
        return {}
    with np.load(file) as stored:
        return json.loads(str(stored["run"]))


def in_a_process(*arguments: object) -> None:
    """Run this script: nothing that one training leaves behind helps or slows down the next."""
    subprocess.run([sys.executable, __file__, *map(str, arguments)], check=True)


# Scores ------------------------------------------------------------------------------------------


def dataset_file(folder: Path, part: str) -> Path | None:
    """Return the file of pictures, ``"train"`` or ``"t10k"``, somewhere below a folder."""
    found = sorted(folder.rglob(f"{part}-images-idx3-ubyte.gz")) if folder.is_dir() else []
    return found[0] if found else None


def test_pictures(folder: Path) -> np.ndarray:
    """Return all 10,000 test pictures when the folder has them, else the committed 4,000."""
    found = dataset_file(folder, "t10k")
    return data.read_idx(found.read_bytes()) if found else data.load_fashion_mnist()[1][0]


def score(real: np.ndarray, made: np.ndarray) -> dict[str, float]:
    """Return the scores of one set of features (n, 64) against the real ones."""
    n = min(N_COVERAGE, len(real), len(made))
    coverage = scores.precision_recall_coverage(real[:n], made[:n]).coverage
    return {
        "frechet": round(scores.frechet_distance(real, made), 2),
        "kernel": round(scores.kernel_distance(real, made), 1),
        "coverage": round(coverage, 4),
    }


def yardsticks(n: int) -> dict[str, np.ndarray]:
    """Return n pictures each that no GAN made: what the distances mean."""
    (training, _), _ = data.load_fashion_mnist()
    mean = np.round(training.mean(axis=0)).astype(np.uint8)
    return {
        "training pictures": training[np.random.default_rng(0).permutation(len(training))[:n]],
        "the mean picture": np.repeat(mean[None], n, axis=0),
        "black": np.zeros((n, 28, 28), np.uint8),
    }


class Judges:
    """The three feature nets and what they see in the test pictures."""

    def __init__(self, dataset: Path) -> None:
        self.real = test_pictures(dataset)
        self.nets = {name: features.load_feature_net(name) for name in NETS}
        self.seen = {name: net(self.real) for name, net in self.nets.items()}

    def __call__(self, images: np.ndarray) -> Measured:
        """Return each net's scores of generated pictures."""
        return {name: score(self.seen[name], net(images)) for name, net in self.nets.items()}


# The race ----------------------------------------------------------------------------------------


def race(
    folder: Path, names: Sequence[str], seeds: Sequence[int], seconds: float, clock: str, n: int
) -> list[Path]:
    """Train what the folder lacks and return every file."""
    wanted = {"seconds": seconds, "clock": clock, "generated": n}
    paths = []
    for seed in seeds:
        for name in names:  # by turns: a slower hour slows all
            file = race_file(folder, name, seed)
            if not read_run(file).items() >= wanted.items():
                which = ("--race", folder, "--one", name, "--seeds", seed)
                in_a_process(*which, "--seconds", seconds, "--clock", clock, "--pictures", n)
            paths.append(file)
    return paths


def milestones(name: str) -> list[int]:
    """Return the numbers of pictures at which a contestant is looked at."""
    return [*MILESTONES, *(OURS_GOES_ON if CONTESTANTS[name].ours else ())]


def record(folder: Path, names: Sequence[str], seeds: Sequence[int], n: int) -> list[Path]:
    """Train what the folder lacks and return every file, in order of pictures for each run."""
    paths = []
    for seed in seeds:
        for name in names:
            marks = milestones(name)
            wanted = {"generated": n, "last": marks[-1]}
            run = [record_file(folder, name, seed, pictures) for pictures in (0, *marks)]
            if not all(read_run(file).items() >= wanted.items() for file in run):
                in_a_process("--record", folder, "--one", name, "--seeds", seed, "--pictures", n)
            paths += run
    return paths


def speeds(names: Sequence[str], turns: int = 3, seconds: float = 8) -> dict[str, float]:
    """Return each contestant's pictures per second of two cores, the best of short runs by turns.

    The best, because other work on the machine can only slow a run down.
    """
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        for name, values in found.items():
            stopwatch = contestants.Stopwatch(seconds, CLOCKS["wall"])
            model = CONTESTANTS[name].build(turn)
            CONTESTANTS[name].fit(model, turn, stopwatch)
            pictures = stopwatch.calls * model.steps_per_execution * CONTESTANTS[name].batch
            values.append(pictures / stopwatch.elapsed())
    return {name: round(max(values), 1) for name, values in found.items()}


def scored(paths: Sequence[Path], judges: Judges) -> Iterator[Measured]:
    """Yield what each file says about its run, with its scores."""
    for path in paths:
        with np.load(path) as stored:
            yield json.loads(str(stored["run"])) | judges(stored["images"])


# Tables ------------------------------------------------------------------------------------------


def cell(values: Sequence[float], digits: int = 0) -> str:
    """Return the median of the seeds and, in brackets, the smallest and the largest."""
    if len(values) == 1:
        return f"{values[0]:,.{digits}f}"
    return f"{median(values):,.{digits}f} [{min(values):,.{digits}f}, {max(values):,.{digits}f}]"


def row(title: str, runs: Sequence[Measured], *first: str) -> str:
    """Return one line of a Markdown table: the title, more cells, the scores of some runs."""
    distances = [cell([run[net]["frechet"] for run in runs]) for net in NETS]
    others = [
        cell([run["course"]["kernel"] for run in runs]),
        cell([run["course"]["coverage"] for run in runs], 2),
    ]
    return f"| {' | '.join([title, *first, *distances, *others])} |"


def table(rows: Sequence[str], *first: str) -> str:
    """Return a Markdown table of such lines."""
    titles = [*first, *(f"Fréchet distance, `{net}`" for net in NETS)]
    titles += ["kernel distance, `course`", "coverage, `course`"]
    return "\n".join([f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|", *rows])


def flat(distances: Sequence[float]) -> bool:
    """Return whether a curve's last quarter takes off less than FLAT of what was left.

    ``distances`` belong to milestones of which the last but one stands at three quarters.
    """
    return min(distances) > (1 - FLAT) * min(distances[:-1])


def of(rows: Sequence[Measured], name: str, seed: int | None = None) -> list[Measured]:
    """Return one contestant's rows, from all seeds or from one."""
    return [
        row for row in rows if row["contestant"] == name and (seed is None or row["seed"] == seed)
    ]


def show_record(rows: Sequence[Measured], speed: dict[str, float]) -> None:
    """Print the record's table, and for each pair when ours has what the rival ends with."""
    lines = []
    for name in speed:
        for pictures in sorted({row["pictures"] for row in of(rows, name)}):
            here = [row for row in of(rows, name) if row["pictures"] == pictures]
            first = (f"{pictures:,}", f"{pictures / speed[name]:,.0f}")
            lines.append(row(CONTESTANTS[name].title, here, *first))
    lines += [row(r["contestant"], [r], "", "") for r in rows if r["contestant"] not in CONTESTANTS]
    print(table(lines, "pictures seen", "seconds"))
    for ours, rival in PAIRS:
        if {ours, rival} <= speed.keys():
            for net in NETS:
                print(f"{ours} against {rival}, `{net}`: {verdict(rows, speed, ours, rival, net)}")


def verdict(
    rows: Sequence[Measured], speed: dict[str, float], ours: str, rival: str, net: str
) -> str:
    """Say seed by seed when ours has the rival's last distance, and how the ends compare."""
    parts = []
    for seed in sorted({row["seed"] for row in of(rows, rival)}):
        theirs = [row[net]["frechet"] for row in of(rows, rival, seed)]
        mine = of(rows, ours, seed)
        there = [row["pictures"] for row in mine if row[net]["frechet"] <= theirs[-1]]
        took = of(rows, rival, seed)[-1]["pictures"] / speed[rival]
        state = "flat" if flat(theirs) else "still falling"
        reached = f"{there[0] / speed[ours]:,.0f} s" if there else "never"
        end = theirs[-1] / mine[-1][net]["frechet"]
        parts.append(
            f"seed {seed}: rival {theirs[-1]:,.0f} after {took:,.0f} s ({state}), "
            f"ours has it after {reached} and ends {end:.1f} times as near"
        )
    return "; ".join(parts)


# The command -------------------------------------------------------------------------------------


def keep_race(chosen: argparse.Namespace, names: Sequence[str]) -> None:
    """Train, score, print, and write the rows where --json says."""
    paths = race(chosen.race, names, chosen.seeds, chosen.seconds, chosen.clock, chosen.pictures)
    judges = Judges(chosen.dataset)
    rows = list(scored(paths, judges))
    lines = [
        row(
            CONTESTANTS[name].title,
            of(rows, name),
            cell([run["pictures_per_second"] for run in of(rows, name)]),
        )
        for name in names
    ]
    measured = {title: judges(images) for title, images in yardsticks(chosen.pictures).items()}
    lines += [row(title, [facts], "") for title, facts in measured.items()]
    print(
        f"{chosen.seconds:g} s of training each ({chosen.clock} clock); {chosen.pictures:,} "
        f"generated against {len(judges.real):,} real test pictures; median [smallest, largest]"
    )
    print(table(lines, "pictures/s"))
    if chosen.json:
        whole = {"real_pictures": len(judges.real), "runs": rows, "yardsticks": measured}
        files.write_whole(chosen.json, json.dumps(whole, indent=1) + "\n")


def keep_record(chosen: argparse.Namespace, names: Sequence[str]) -> None:
    """Train, take the speeds, score, print, and write the rows where --jsonl says."""
    paths = record(chosen.record, names, chosen.seeds, chosen.pictures)
    if not chosen.jsonl:
        return
    speed, judges = speeds(names), Judges(chosen.dataset)
    rows = [
        {k: v for k, v in row.items() if k not in ("last", "generated")}
        for row in scored(paths, judges)
    ]
    for title, images in yardsticks(chosen.pictures).items():
        rows.append({"contestant": title} | judges(images))
    chosen.jsonl.unlink(missing_ok=True)
    settings = {"pictures_per_second": speed, "real_pictures": len(judges.real)}
    with history.Run(chosen.jsonl, generated=chosen.pictures, **settings) as log:
        for measured in rows:
            log.log(**measured)
    show_record(rows, speed)


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Let a command say where the whole of Fashion-MNIST is."""
    parser.add_argument(
        "--dataset",
        type=Path,
        metavar="FOLDER",
        default=Path(os.environ.get("FASHION_MNIST", DEBIAN)),
        help="where the files of Debian's dataset-fashion-mnist are (also: FASHION_MNIST)",
    )


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--race", type=Path, metavar="FOLDER", help="equal seconds for each")
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="milestones of each")
    parser.add_argument("--seconds", type=float, default=90, help="training seconds of a race")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what a race's second is")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="SEED")
    parser.add_argument("--pictures", type=int, default=N_PICTURES, help="how many to generate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the race's numbers here")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="write the record here")
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)  # a child's part
    add_dataset(parser)
    chosen = parser.parse_args(arguments)
    if chosen.seconds <= 0:
        parser.error("--seconds must be above 0")
    if chosen.pictures < 1000:
        parser.error("--pictures must be at least 1000: the kernel distance takes so many")
    if (chosen.race is None) == (chosen.record is None):
        parser.error("say what to do: --race FOLDER or --record FOLDER")
    if chosen.one and chosen.race:
        seed, seconds = chosen.seeds[0], chosen.seconds
        train_for_seconds(chosen.race, chosen.one, seed, seconds, chosen.clock, chosen.pictures)
    elif chosen.one:
        marks = milestones(chosen.one)
        train_to_milestones(chosen.record, chosen.one, chosen.seeds[0], marks, chosen.pictures)
    elif chosen.race:
        keep_race(chosen, chosen.contestants)
    else:
        keep_record(chosen, chosen.contestants)


if __name__ == "__main__":
    main()
