"""`python -m dermalert`: the jobs beside training."""

from dermalert.cli import app

app()
