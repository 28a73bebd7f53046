"""What the covariance is worth to a smoother where GPS and camera fail together.

    python benchmarks/smoother_bad_days.py --bags FOLDER --artifact FITTED [--test]

As benchmarks/smoother.py, but a car loses its fixes where its camera suffers, too: in tunnels,
under trees, in spray. From 5 s before every outage to its half the images are dark (5 % of the
light), covered (60 %) or frozen, in turn, and the estimator is played what is left. Of every drive
two orders of outages are played.

The constant covariance is that of the errors on training drives with the same faults, its scales
chosen on them; how long errors last is measured on validation drives with them. Told are a window
of 10 s and one that is longer than every outage, over which a smoother can put the gap between the
fixes where the increments were worst. Validation drives, or with --test drives 05 and 07: nothing
may be chosen by them. Figures go to results/smoother_bad_days.json, pictures beside it.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

import numpy as np
from bad_day_faults import with_faults
from smoother import (
    OURS,
    TEST,
    TRAIN,
    VALIDATION,
    Given,
    Study,
    draw,
    figures,
    parser_of,
    reductions,
    scaled,
    second_moment,
    told_model,
    treatments,
    write,
)
from smoother_runs import LAG_S, Outages, Treatment, outages_within

from bayes_vio.artifact import read_description
from bayes_vio.conventions import NS_PER_S
from bayes_vio.data.samples import Streams
from bayes_vio.evaluation.run import Run
from bayes_vio.simulation.faults import Fault, FaultKind

RESULT = Path(__file__).parent / "results" / "smoother_bad_days.json"
FAULTS = ((FaultKind.DARKNESS, 0.95), (FaultKind.OCCLUSION, 0.6), (FaultKind.FREEZE, 1.0))
BEFORE_S, SEED = 5.0, 1
TURNS, CHOOSING_S = (0, 2), 120.0
LAGS_S = {"window of 10 s": LAG_S, "window of 75 s": 75.0}


@dataclass(frozen=True)
class FailingCamera:
    """Streams whose camera fails with the GPS; ``turn``: which outage is first."""

    turn: int
    duration_s: float | None = None  # the first seconds alone

    @property
    def suffix(self) -> str:
        return f"-failing-{self.turn}" + (f"-{self.duration_s:g}" if self.duration_s else "")

    def of(self, streams: Streams) -> Streams:
        """Return the streams with faults around every outage."""
        if self.duration_s is not None:
            streams = shortened(streams, self.duration_s)
        stamp_ns = streams.image_stamp_ns
        where = outages_within(float(stamp_ns[-1] - stamp_ns[0]) / NS_PER_S, self.turn)
        return with_faults(streams, faults_of(where), SEED).streams


def shortened(streams: Streams, seconds: float) -> Streams:
    """Return the first seconds of a recording."""
    stamp_ns = streams.image_stamp_ns
    n = int(np.sum(stamp_ns <= stamp_ns[0] + round(seconds * NS_PER_S)))
    return replace(
        streams, image_stamp_ns=stamp_ns[:n], frames=lambda: islice(streams.frames(), n)
    )


def faults_of(where: Outages) -> tuple[Fault, ...]:
    """Return the camera's faults, from some seconds before every outage to its half."""
    return tuple(
        Fault(kind, start_s - BEFORE_S, BEFORE_S + length_s / 2, strength)
        for number, (start_s, length_s) in enumerate(
            zip(where.start_s, where.length_s, strict=True)
        )
        for kind, strength in [FAULTS[number % len(FAULTS)]]
    )


@dataclass(frozen=True)
class BadDays:
    """Runs of the estimator on bad days, and the turn of each."""

    runs: list[Run]
    turns: list[int]

    @staticmethod
    def played(
        given: Given,
        names: Sequence[str],
        turns: Sequence[int] = TURNS,
        duration_s: float | None = None,
    ) -> BadDays:
        """Return the runs of every drive in every turn."""
        runs, of = [], []
        for turn in turns:
            found = given.runs(names, FailingCamera(turn, duration_s))
            runs, of = runs + found, of + [turn] * len(found)
        return BadDays(runs, of)


def compared(study: Study, treated: dict[str, Treatment], days: BadDays) -> dict:
    """Return the figures of treatments over bad days."""
    judged = study.judge(days.runs, treated, turns=days.turns)
    told = {name: figures(j) for name, j in judged.items()}
    return {"treatments": told, "lower_by": reductions(told)}


def main() -> None:
    arguments = parser_of(__doc__, RESULT, 3).parse_args()
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, mp_context=context) as pool:
        given = Given(pool, arguments.artifact, arguments.bags, arguments.work)
        split, names = ("test", TEST) if arguments.test else ("validation", VALIDATION)
        train = BadDays.played(given, TRAIN, TURNS[:1], CHOOSING_S)
        if "chosen" not in known or arguments.choose:
            study = Study(pool, arguments.seeds)
            chosen = study.best_scales(train.runs, second_moment(train.runs), train.turns)
            known["chosen"] = dict(zip(("linear", "angular", "tried_m"), chosen, strict=True))
            write(arguments.out, known)
        scales = known["chosen"]["linear"], known["chosen"]["angular"]
        validation = BadDays.played(given, VALIDATION)
        best = scaled(second_moment(train.runs), *scales)
        treated = treatments(arguments.artifact, train.runs, validation.runs, best)
        days = BadDays.played(given, names)
        known[split] = {
            "measured_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "data": f"semi-synthetic, {', '.join(names)}",
            "evaluated_on": list(names),
            "artifact_seal_sha256": read_description(arguments.artifact)["seal_sha256"],
            "errors_that_last": told_model(treated[OURS].errors),
            "windows": {
                name: compared(Study(pool, arguments.seeds, lag_s), treated, days)
                for name, lag_s in LAGS_S.items()
            },
        }
        write(arguments.out, known)
    windows = known[split]["windows"]
    for name, part in windows.items():
        title = f"camera and GPS fail together, {', '.join(names)}, {name}"
        suffix = f"_{LAGS_S[name]:g}_s.png"
        draw(arguments.out.with_name(arguments.out.stem + suffix), part["treatments"], title)
    print(json.dumps({name: w["lower_by"] for name, w in windows.items()}, indent=1))


if __name__ == "__main__":
    main()
