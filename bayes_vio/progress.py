"""Show how far a command has come; stderr is left to errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as Remaining

from bayes_vio.training.checkpoint import Progress as FitProgress
from bayes_vio.training.recordings import FitObserver

if TYPE_CHECKING:
    from typing_extensions import Self


class Bars:
    """Progress bars by name; a context manager that draws from the first bar until it closes."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Remaining(),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._tasks:
            self._bars.stop()

    def show(self, name: str, done: int, total: int, note: str = "") -> None:
        """Move the bar of this name to done of total; the note stands behind the name."""
        self._bars.start()
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        text = f"{name}: {note}" if note else name
        self._bars.update(self._tasks[name], completed=done, total=total, description=text)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, markup=False)


class FitDisplay(Bars, FitObserver):
    """Show a fit: its stages, its findings, a bar per recording and one for the epochs."""

    def stage(self, text: str) -> None:
        self.say(text)

    def note(self, text: str) -> None:
        self.say(f"  {text}")

    def frames(self, recording: str, done: int, total: int) -> None:
        self.show(recording, done, total)

    def epoch(self, progress: FitProgress, epochs: int) -> None:
        losses = (
            f"train {progress.train_loss[-1]:.3f}, validation {progress.validation_nll[-1]:.3f}"
        )
        self.show("epochs", progress.epochs, epochs, f"NLL in nats, {losses}")
