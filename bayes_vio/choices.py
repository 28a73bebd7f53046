"""What a user chooses by name, for commands and nodes alike; imports nothing."""

from enum import Enum


class Structure(str, Enum):
    """How the information matrix over a network's weights is structured."""

    INF = "inf"
    DIAGONAL = "diagonal"
    KFAC = "kfac"
    EFB = "efb"
    FULL = "full"
    SUBNETWORK = "subnetwork"
    ELLA = "ella"
    KFLR = "kflr"
    KFRA = "kfra"

    @property
    def mixes_layers(self) -> bool:
        """Whether the epistemic covariance is no sum over layers, none of which can be left."""
        return self is Structure.ELLA


# Structures that a motion network's posterior cannot have, and why.
_UNFIT = {
    Structure.FULL: "its matrix would have a side of all weights",
    Structure.SUBNETWORK: "the weights of largest variance are those that no drive informs, so "
    "that its covariance is next to nothing",
    Structure.ELLA: "it has no samples of weights, by which it is measured how long errors last",
    Structure.KFLR: "BackPACK reads no network of several inputs",
    Structure.KFRA: "BackPACK reads no network of several inputs",
}


def check_structure(name: str) -> None:
    """Raise ValueError where a motion network's posterior cannot have this structure."""
    fit_for_motion = ", ".join(s.value for s in Structure if s not in _UNFIT)
    if name not in {s.value for s in Structure}:
        raise ValueError(f"structure {name!r} is not known: use one of {fit_for_motion}")
    if reason := _UNFIT.get(Structure(name)):
        raise ValueError(
            f"structure '{name}' is not for the motion network: {reason}; use one of "
            f"{fit_for_motion}"
        )


class Fisher(str, Enum):
    """Which second moment of output gradients stands for the curvature.

    TYPE2 is exact (a square root of the loss Hessian, one column per output), PROBED adds up each
    datum's columns with random signs (E24), MC draws labels from the model, EMPIRICAL takes the
    true labels.
    """

    TYPE2 = "type2"
    PROBED = "probed"
    MC = "mc"
    EMPIRICAL = "empirical"

    @property
    def is_drawn(self) -> bool:
        """Whether it draws numbers, datum by datum."""
        return self in (Fisher.PROBED, Fisher.MC)

    def n_columns(self, n_outputs: int) -> int:
        """Return how many columns, so many backward passes, a datum has."""
        return n_outputs if self is Fisher.TYPE2 else 1


class Predictive(str, Enum):
    """Which layers of a posterior a prediction uses; the others' weights are at the MAP."""

    AUTO = "auto"
    WHOLE = "whole"
    LAST_LAYER = "last_layer"


class NumberFormat(str, Enum):
    """What a posterior's numbers are rounded to and stored in.

    NATIVE: the network's dtype. BFLOAT16: two bytes a number. FLOAT8: diagonals in eight bits
    without a sign (E5M3), powers of two being scales of rows and columns, everything else as in
    BFLOAT16. Among two bytes the columns of U, none of whose entries exceeds one, have float16:
    eight times finer than bfloat16, and they are what predictions are sensitive to.
    """

    NATIVE = "native"
    BFLOAT16 = "bfloat16"
    FLOAT8 = "float8"
