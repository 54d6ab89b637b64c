"""`python -m dermalert`: all jobs, as the command `dermalert`."""

from dermalert.cli import app

app()
