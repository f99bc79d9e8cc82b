"""mixture → features: the output of a stage's frozen prefix for all its images, computed once before training.

The work is cut into pieces (see `data.batches.features`), shared among as many processes as the profile has ranks, and
with `encode_part` among machines. An interrupted run continues with the missing pieces.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from tinygptv.catalog import ResolvedRun
from tinygptv.definitions.reasons import FORGOTTEN
from tinygptv.errors import LaunchError
from tinygptv.store.artifacts import Manifest, Outcome, Store, storage_errors
from tinygptv.store.locations import local_path
from tinygptv.train.encoding.features import outdated, plan_features, published_start
from tinygptv.train.encoding.job import EncodeJob
from tinygptv.train.job import TRAINED
from tinygptv.train.lineage import adapters, prefix_was_trained

if TYPE_CHECKING:
    import pyarrow as pa

UNREADABLE = "unreadable_image"
"""The drop reason of unreadable images; training handles them as it does without a cache."""

Line = Callable[[str], None]


def encode(
    store: Store,
    run: ResolvedRun,
    stage_name: str,
    mixture: Manifest,
    previous: Manifest | None,
    on_line: Line | None = None,
) -> Manifest:
    """Compute the features of all images of a stage's mixture except forgotten ones, or find them computed.

    After a takedown, the remaining features are copied from the earlier artifact, which is then removed. Unreadable
    images are counted. Raises what `plan_features` raises, and LaunchError if a process dies.
    """
    plan = plan_features(store, run, stage_name, mixture, previous)

    def build(draft: Path) -> Outcome:
        from tinygptv.data.batches.features import (
            INDEX,
            count_pieces,
            count_unreadable,
            details,
            index_images,
            piece_name,
            write_index,
        )
        from tinygptv.train.assemble import DTYPES

        index, earlier = index_images(store, mixture.artifact, plan.masked), outdated(store, plan)
        job = _job(store, run, stage_name, previous, earlier)
        pieces = range(count_pieces(index))
        _encode_pieces(job, draft, index, pieces, on_line or (lambda _: None))
        for leftover in draft.glob("*.partial"):
            leftover.unlink()
        write_index(draft / INDEX, index)
        for artifact in earlier:
            store.discard(artifact)
        count = index.num_rows if plan.masked is None else index_images(store, mixture.artifact, None).num_rows
        unreadable = sum(count_unreadable(draft / piece_name(piece)) for piece in pieces)
        drops = {FORGOTTEN: count - index.num_rows, UNREADABLE: unreadable}
        format_of = details(
            job.model.features_shape(job.inputs.image_size, len(job.frozen)), DTYPES[job.hardware.precision]
        )
        format_of["pieces"] = len(pieces)
        return Outcome(rows_in=count, rows_out=index.num_rows - unreadable, drops=drops, details=format_of)

    return store.make(plan.artifact, f"encode {stage_name}", plan.definition, plan.parents, build)


def encode_part(
    store: Store,
    run: ResolvedRun,
    stage_name: str,
    mixture: Manifest,
    previous: Manifest | None,
    part: int,
    parts: int,
    on_line: Line,
) -> None:
    """Write every `parts`-th piece, beginning with number `part` (from 1), for a later `encode` to use.

    Machines that share the workdir can each take a part.
    """
    plan = plan_features(store, run, stage_name, mixture, previous)
    if store.find(plan.artifact) is None:
        from tinygptv.data.batches.features import count_pieces, index_images

        draft, index = store.draft(plan.artifact), index_images(store, mixture.artifact, plan.masked)
        job = _job(store, run, stage_name, previous, outdated(store, plan))
        with storage_errors(draft):
            draft.mkdir(parents=True, exist_ok=True)
            _encode_pieces(job, draft, index, range(part - 1, count_pieces(index), parts), on_line)


def _encode_pieces(job: EncodeJob, draft: Path, index: "pa.Table", pieces: Iterable[int], on_line: Line) -> None:
    """Write the missing ones of these pieces."""
    from tinygptv.data.batches.features import images_of, piece_name
    from tinygptv.train.encoding import encoder

    hardware = job.hardware
    missing = [piece for piece in pieces if not (draft / piece_name(piece)).is_file()]
    if not missing:
        return
    context = multiprocessing.get_context("spawn")
    ranks = context.SimpleQueue()
    for rank in range(hardware.ranks):
        ranks.put(rank)
    threads = hardware.threads_per_rank or max(1, (os.cpu_count() or 1) // hardware.ranks)
    settings = os.getpid(), ranks, hardware.device, threads
    with ProcessPoolExecutor(hardware.ranks, context, encoder.begin, settings) as pool:
        as_json = job.model_dump_json()
        futures = [
            pool.submit(encoder.encode_piece, as_json, draft / piece_name(piece), images_of(index, piece))
            for piece in missing
        ]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                on_line(f"encode: {done} of {len(missing)} pieces")
        except BrokenProcessPool:
            raise LaunchError(
                f"{draft}: a process of encode was killed, perhaps because memory ran out; start the same command "
                "again, with fewer ranks or a smaller micro_batch_size: finished pieces are kept"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _job(store: Store, run: ResolvedRun, stage_name: str, previous: Manifest | None, earlier: list[str]) -> EncodeJob:
    recipe, stage = run.recipe, run.recipe.stage(stage_name)
    begin = published_start(recipe, stage)
    if previous is not None and prefix_was_trained(recipe, stage):
        handoff: str | None = str(store.folder(previous.artifact) / TRAINED)
    else:
        handoff = str(local_path(begin)) if begin else None
    return EncodeJob(
        workdir=store.workdir,
        model=recipe.model,
        lora=adapters(recipe, stage),
        inputs=stage.inputs,
        frozen=stage.frozen_prefix(recipe.model),
        seed=recipe.seed,
        handoff=handoff,
        hardware=run.hardware,
        earlier=earlier[-1] if earlier else None,
    )
