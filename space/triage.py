"""Triage files, folders and zip archives from a terminal: `python triage.py --help`."""

import sys

from dermalert_space import process

if __name__ == "__main__":
    process.configure()

from dermalert_space.cli import main

if __name__ == "__main__":
    sys.exit(main())
