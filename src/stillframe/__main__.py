"""``python -m stillframe`` is the command ``stillframe``."""

from stillframe.cli.main import run

if __name__ == "__main__":
    run()
