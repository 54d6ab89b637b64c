"""Draw the examples of the Space's page that are no photographs: generated lesions and a page of text.

python scripts/build_examples.py
"""

import sys

from dermalert_space.page.examples import FOLDER

from dermalert.imaging import non_lesions, synthetic_lesions

DRAWN = {
    # Of the seeds below 48 those that the bundled release assesses, and as a reader expects of their kind.
    "carcinoma.png": lambda: synthetic_lesions.lesion("basal cell carcinoma", lesion_seed=11, size=160),
    "keratosis.png": lambda: synthetic_lesions.lesion("seborrheic keratosis", lesion_seed=36, size=256),
    "no-lesion.png": lambda: next(non_lesions.draw_kind(non_lesions.GENERATED["page of text"], 0, n=1)),
}
"""What draws each file that `attribution.csv` lists without a number of the archive."""


def main() -> None:
    """Write the files."""
    for name, draw in DRAWN.items():
        draw().save(FOLDER / name, optimize=True)
        print(FOLDER / name)


if __name__ == "__main__":
    sys.exit(main())
