"""Read motion samples of several recordings in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_vio.data.recording import PreparedRecording, prepare
from bayes_vio.data.samples import MotionInput
from bayes_vio.data.windows import motion_batch

__all__ = ["MotionDataset", "MotionLoader", "PreparedRecording", "prepare"]


NO_REFERENCE = (
    "{} has no reference pose, so it cannot be learned from: name its topic (--reference-topic; "
    "on /tf also --reference-world and --reference-frame), or leave the recording out"
)


class MotionDataset:
    """Motion samples of several recordings in order of recording and time.

    ``strides``: intervals to take, in images. Raises ValueError for a recording without a
    reference, or where nothing is left.
    """

    def __init__(
        self, recordings: Sequence[PreparedRecording], strides: Sequence[int] = (1,)
    ) -> None:
        self.recordings = list(recordings)
        self.strides = tuple(strides)
        for recording in self.recordings:
            if recording.reference is None:
                raise ValueError(NO_REFERENCE.format(recording.name))
        rows = [np.flatnonzero(np.isin(r.samples.stride, self.strides)) for r in self.recordings]
        self._recording = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        self._row = np.concatenate([*rows, np.zeros(0, np.int64)])
        if not len(self._row):
            names = ", ".join(r.name for r in self.recordings) or "no recording"
            raise ValueError(
                f"no sample of stride {self.strides} in {names}: see what was dropped"
            )

    def __len__(self) -> int:
        return len(self._row)

    @property
    def dt_s(self) -> NDArray[np.float64]:
        """Length [samples] of the intervals (s)."""
        parts = [
            recording.samples.dt_s[self._row[self._recording == number]]
            for number, recording in enumerate(self.recordings)
        ]
        return np.concatenate(parts)

    def batch(self, indices: Sequence[int] | NDArray[np.integer]) -> tuple[MotionInput, Tensor]:
        """Return (input, target [n, 6] float32) of samples, in the order asked for."""
        chosen = np.asarray(indices, np.int64)
        owners = self._recording[chosen]
        inputs, targets, order = [], [], []
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            x, target = _read(self.recordings[owner], self._row[chosen[places]])
            inputs.append(x)
            targets.append(torch.from_numpy(target))
            order.append(places)
        back = torch.from_numpy(np.argsort(np.concatenate(order)))
        return MotionInput.stack(inputs).map(lambda t: t[back]), torch.cat(targets)[back]

    def loader(self, batch_size: int, shuffle_seed: int | None = None) -> MotionLoader:
        """Return batches, in order or in an order drawn from a seed; re-iterable."""
        return MotionLoader(self, batch_size, shuffle_seed)


def _read(
    recording: PreparedRecording, rows: NDArray[np.int64]
) -> tuple[MotionInput, NDArray[np.float32]]:
    samples, frames = recording.samples, recording.frames
    pairs = samples.pair[rows]
    x = motion_batch(
        gray=frames.gray(frames.pairs[pairs, 1]),
        flow=frames.flow(pairs),
        view_valid=frames.view_valid,
        imu=samples.imu[rows],
        imu_valid=samples.imu_valid[rows],
        dt_s=samples.dt_s[rows],
        camera_valid=np.ones(len(rows), np.float32),
    )
    return x, samples.target[rows]


@dataclass(frozen=True)
class MotionLoader:
    """Batches of a dataset; every iteration gives the same batches in the same order."""

    dataset: MotionDataset
    batch_size: int
    shuffle_seed: int | None = None

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[MotionInput, Tensor]]:
        order = np.arange(len(self.dataset))
        if self.shuffle_seed is not None:
            order = np.random.default_rng(self.shuffle_seed).permutation(order)
        for start in range(0, len(order), self.batch_size):
            yield self.dataset.batch(order[start : start + self.batch_size])
