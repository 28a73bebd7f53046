"""Run the command line: ``python -m bayes_vio``."""

from bayes_vio.cli import main

raise SystemExit(main())
