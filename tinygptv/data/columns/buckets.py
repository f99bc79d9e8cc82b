"""Rows dealt onto disk by the hash of a value: equal values meet in one bucket, and a bucket fits in memory.

So memory does not grow with the rows (partitioned hashing: Kitsuregawa, Tanaka and Moto-oka, 1983).
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from tinygptv.data.columns.arrow import numbers, places

CODE = "code"
_MOST_FILES = 256


class Buckets:
    """Takes record batches whose column `code` is a 64-bit hash, and gives them back as one table per bucket."""

    def __init__(self, folder: Path, rows: int, rows_per_bucket: int) -> None:
        """So many buckets in `folder` that about `rows_per_bucket` of `rows` fall into each."""
        count = min(max(1, -(-rows // rows_per_bucket)), _MOST_FILES)
        self._files = [folder / f"{number}.arrow" for number in range(count)]

    def fill(self, batches: pa.RecordBatchReader) -> None:
        """Deal all rows; within a bucket they keep their order."""
        count = len(self._files)
        writers = [pa.ipc.new_stream(str(file), batches.schema) for file in self._files]
        for batch in batches:
            bucket = (numbers(batch, CODE).astype(np.uint64) % np.uint64(count)).astype(np.uint16)
            order = np.argsort(bucket, kind="stable")
            ends = np.searchsorted(bucket[order], np.arange(count + 1)).tolist()
            dealt = batch.take(places(order))
            for writer, (first, end) in zip(writers, pairwise(ends), strict=True):
                if first < end:
                    writer.write_batch(dealt.slice(first, end - first))
        for writer in writers:
            writer.close()

    def __iter__(self) -> Iterator[pa.Table]:
        for file in self._files:
            with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as stream:
                yield stream.read_all()
            file.unlink()
