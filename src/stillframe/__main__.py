"""``python -m stillframe`` is the command ``stillframe``."""

from stillframe.cli.main import run

run()
