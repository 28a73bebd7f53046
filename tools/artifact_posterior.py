"""Fit an artifact's posterior and calibration anew, its weights as they are.

    python tools/artifact_posterior.py ARTIFACT OUT --train BAG... --validation BAG...

The bags are those of its fit; with the fit's own cache of frames this takes minutes where the fit
took hours. What its recordings tell (crossover, correlations, reliability) is measured anew, too,
since it is measured under the calibrated noise. The regime classifier stays.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import torch
from artifact_recordings import parser_of, recordings_of

from bayes_vio.artifact import MotionArtifact
from bayes_vio.fit import FitSettings, fit_calibrated_posterior, measured_artifact
from bayes_vio.progress import FitDisplay
from bayes_vio.training.recordings import CommonOffset, Recordings

# What the weights' own training told, and stays true.
_OF_THE_WEIGHTS = ("curves", "settings", "regime")


def main() -> None:
    """Write the artifact with another posterior."""
    arguments = parsed()
    artifact = MotionArtifact.load(arguments.artifact)
    recordings = of_the_fit(artifact, arguments)
    settings = FitSettings(
        structure=artifact.posterior.report.structure,
        curvature_samples=arguments.curvature_samples,
    )
    artifact.model.noise_scale.fill_(1.0)
    with FitDisplay() as display:
        posterior, chosen = fit_calibrated_posterior(
            artifact.model, recordings, settings, torch.device("cpu"), display
        )
        told = {
            "prior_precision": chosen.prior_precision,
            "prior_search": [list(pair) for pair in chosen.search],
            **{k: artifact.metadata[k] for k in _OF_THE_WEIGHTS if k in artifact.metadata},
        }
        anew = measured_artifact(
            artifact.model, posterior, recordings, settings.calibration_samples, told, display
        )
    replace(anew, regime=artifact.regime).save(arguments.out)
    print(asdict(chosen))


def of_the_fit(artifact: MotionArtifact, arguments: argparse.Namespace) -> Recordings:
    """Return the recordings of the artifact's fit, with its time offset."""
    std_s = artifact.metadata.get("time_offset_std_s")
    offset = CommonOffset(artifact.time_offset_s, std_s, len(arguments.train))
    return Recordings(*recordings_of(arguments, artifact), offset, {})


def parsed() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = parser_of(__doc__, "posterior")
    parser.add_argument("out", type=Path)
    parser.add_argument("--curvature-samples", type=int, default=10_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
