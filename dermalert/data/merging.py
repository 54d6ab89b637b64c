"""An image that several sources hold becomes one row."""

from collections import defaultdict
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from dermalert.data import groups, schema


def merge_copies(table: pa.Table) -> pa.Table:
    """Keep one row of an image that several sources hold under one label, the one shipped for testing or the first."""
    images = groups.group_keys(map(schema.same_image, groups.each(table, "image_id", "content")))
    copies = defaultdict(list)
    for place, image in enumerate(zip(images, table["label"].to_pylist(), strict=True)):
        copies[image].append(place)
    several = [same for same in copies.values() if len(same) > 1]
    places = list(chain.from_iterable(several))
    rows = dict(zip(places, table.take(pa.array(places, pa.int64())).to_pylist(), strict=True))
    index = np.arange(len(table))
    merged: list[dict[str, Any]] = []
    for same in several:
        first = max(same, key=lambda place: rows[place]["shipped_split"] == "test")
        kept = rows[first]
        # Whether an image has related ones in a shipped training split must not depend on the order of the sources.
        if any(rows[place]["shipped_split"] == "train" for place in same):
            kept["shipped_split"] = kept["shipped_split"] or "train"
        for place in same:
            if rows[place]["named"] != kept["named"]:
                schema.fill(kept, rows[place])
                index[place] = -1
        index[first] = len(table) + len(merged)
        merged.append(kept)
    return pa.concat_tables([table, pa.Table.from_pylist(merged, table.schema)]).take(pa.array(index[index >= 0]))
