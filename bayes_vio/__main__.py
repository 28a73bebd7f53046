"""Run the command line: ``python -m bayes_vio``."""

from bayes_vio.entry import command_line

raise SystemExit(command_line())
