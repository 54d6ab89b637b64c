"""Draw the examples of the Space's page: generated lesions and a page of text, no photographs.

python scripts/build_examples.py
"""

import sys

from dermalert_space.page.examples import FOLDER

from dermalert.imaging import non_lesions, synthetic_lesions

_SIDE = 320  # pixels of a lesion

DRAWN = {
    "generated-1.png": lambda: synthetic_lesions.lesion("melanoma", lesion_seed=3, size=_SIDE),
    "generated-2.png": lambda: synthetic_lesions.lesion("nevus", lesion_seed=5, size=_SIDE),
    "no-lesion.png": lambda: next(non_lesions.draw_kind(non_lesions.GENERATED["page of text"], 0, n=1)),
}
"""What draws each file that `attribution.csv` lists."""


def main() -> None:
    """Write the files."""
    for name, draw in DRAWN.items():
        draw().save(FOLDER / name, optimize=True)
        print(FOLDER / name)


if __name__ == "__main__":
    sys.exit(main())
