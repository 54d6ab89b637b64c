"""dermalert: the parts that train_hf.py puts together."""

import subprocess
from pathlib import Path

import dermalert_space  # noqa: F401  # before ONNX Runtime, whose telemetry it turns off


def commit() -> str | None:
    """Return the commit of the code that runs, with `+` where files differ from it; None where it is no checkout."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        ran = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may lie in another checkout
        return git("rev-parse", "HEAD") + "+" * bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None
