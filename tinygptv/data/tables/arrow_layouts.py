"""Tables with typed columns: Parquet, and Arrow as Hugging Face `datasets` saves it or as Feather files hold it."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tinygptv.data.columns.arrow import texts
from tinygptv.data.tables.carried import packed
from tinygptv.data.tables.column_choice import Column, Columns, Source
from tinygptv.data.tables.column_values import plain, plain_type
from tinygptv.data.tables.table_bytes import open_bytes, open_coded
from tinygptv.data.tables.table_rows import Records
from tinygptv.errors import DataError

_BATCH_ROWS = 10_000
_FILE_MAGIC = b"ARROW1"
_DAMAGE = (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError)
"""What Arrow raises over a damaged file, which may also ask for any amount of memory and name columns in any bytes."""


def read_parquet(source: Source) -> Iterator[Records]:
    """Batches of the columns that are read, and of no other."""
    with open_bytes(source.path) as stream:
        try:
            # Without these two a whole row group is held, which in LAION's tables is the whole file.
            file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
            columns = _columns(source, "Parquet", file.schema_arrow)
            names = file.schema_arrow.names
            read = {column.name for column in (*columns.fields.values(), *columns.carried.values())}
            wanted = sorted(read & set(names))
            # A name that occurs twice is read twice, one after the other.
            places = [place for name in wanted for place, each in enumerate(names) if each == name]
            for batch in file.iter_batches(_BATCH_ROWS, columns=wanted):
                yield _records(source, columns, batch, places)
        except _DAMAGE as error:
            raise DataError(f"{source.path}: not a readable Parquet file: {error}") from error


def read_arrow(source: Source) -> Iterator[Records]:
    """A stream, readable without the library that saved it, or a file with an index."""
    try:
        if source.head.unpacked.startswith(_FILE_MAGIC):
            with open_bytes(source.path) as stream:
                file = pa.ipc.open_file(stream)
                yield from _batches(source, file.schema, map(file.get_batch, range(file.num_record_batches)))
        else:
            with open_coded(source.path, source.head.coding) as unpacked:
                batches = pa.ipc.open_stream(unpacked)
                yield from _batches(source, batches.schema, batches)
    except _DAMAGE as error:
        raise DataError(f"{source.path}: not a readable Arrow file: {error}") from error


def _batches(source: Source, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[Records]:
    columns = _columns(source, "Arrow", schema)
    read = {column.place for column in (*columns.fields.values(), *columns.carried.values())}
    for batch in batches:
        for place in read & set(range(batch.num_columns)):
            _check(batch.column(place))
        yield _records(source, columns, batch, list(range(len(schema))))


def _check(column: pa.Array) -> None:
    """Raise ArrowInvalid if a column points outside its own memory: Arrow believes what a file says, and would crash.

    Text that is not UTF-8 is no such fault: that costs its row alone, later.
    """
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
        for part in _parts(column):
            _check(part)


def _parts(column: pa.Array) -> list[pa.Array]:
    """What a column consists of, text as bytes."""
    kind = column.type
    if pa.types.is_string(kind):
        return [column.view(pa.binary())]
    if pa.types.is_large_string(kind):
        return [column.view(pa.large_binary())]
    if pa.types.is_dictionary(kind):
        return [column.indices, column.dictionary]
    if pa.types.is_struct(kind):
        return [column.field(number) for number in range(kind.num_fields)]
    return [column.values] if pa.types.is_list(kind) or pa.types.is_large_list(kind) else []


def _columns(source: Source, layout: str, schema: pa.Schema) -> Columns:
    return source.columns(layout, schema.names, lambda column: _has_members(schema.field(column.place).type, column))


def _has_members(kind: pa.DataType, column: Column) -> bool:
    for member in column.members:
        kind = plain_type(kind)
        if not pa.types.is_struct(kind) or kind.get_field_index(member) < 0:
            return False
        kind = kind.field(member).type
    return True


def _records(source: Source, columns: Columns, batch: pa.RecordBatch, places: list[int]) -> Records:
    """`places` are those that the batch's columns have in the file."""
    at = {place: number for number, place in enumerate(places)}

    def values(column: Column) -> pa.Array:
        if column.place not in at:
            return pa.repeat(texts([source.partition(column)])[0], batch.num_rows)
        found = batch.column(at[column.place])
        for member in column.members:
            # By way of the parent, so that what is NULL there is NULL in its members too.
            found = pc.struct_field(plain(found), member)
        return found

    carried = None
    if columns.carried:
        listed = {name: _listed(values(column)) for name, column in columns.carried.items()}
        carried = texts([packed(dict(zip(listed, row, strict=True))) for row in zip(*listed.values(), strict=True)])
    return Records({field: values(column) for field, column in columns.fields.items()}, carried=carried)


def _listed(column: pa.Array) -> list[object]:
    """Python's values; what only pandas could turn into one as text."""
    column = plain(column)
    if pa.types.is_temporal(column.type):
        try:
            column = column.cast(pa.string())
        except pa.ArrowException:
            return [str(value) for value in column]
    return list(column.to_pylist())
