"""Reads an export with DuckDB, pandas and Polars, and holds it to the lines of JSON beside it.

Usage: check.py ENTRIES.jsonl ENTRIES.csv ENTRIES.parquet
"""

import json
import sys

import duckdb
import pandas
import polars

lines, table_csv, table_parquet = sys.argv[1:]
OURS = {"logId", "experiment", "receivedAt", "variantKey", "input", "output", "context", "metrics"}
JSON = ["input", "output", "context"]


def numbers(metrics, prefix=""):
    """The numeric metrics by name; what is too large for a double isn't one."""
    for key, value in metrics.items():
        if isinstance(value, dict):
            yield from numbers(value, prefix + key + ".")
        elif isinstance(value, (bool, int, float)) and abs(float(value)) != float("inf"):
            yield prefix + key, float(value)


with open(lines, encoding="utf-8") as file:
    entries = [json.loads(line) for line in file]
assert len(entries) > 20
names = list(dict.fromkeys(name for e in entries for name, _ in numbers(e.get("metrics") or {})))
assert "ms" in names and "judge.score" in names


def expected(entry):
    values = dict(numbers(entry.get("metrics") or {}))
    other = {key: value for key, value in entry.items() if key not in OURS}
    return (
        [entry["logId"], entry["experiment"], entry["receivedAt"], entry["variantKey"]]
        + [entry.get(name) for name in JSON]
        + [values.get(name) for name in names]
        + [other or None]
    )


def found(row):
    """A row as a reader gave it, but for the column `metrics`."""
    text = [None if cell is None or cell != cell else cell for cell in row]
    first, json_cells, cells, other = text[:4], text[4:7], text[7:-2], text[-1]
    parsed = [cell and json.loads(cell) for cell in json_cells]
    return first + parsed + cells + [other and json.loads(other)]


def check(reader, rows):
    rows = [list(row) for row in rows]
    assert len(rows) == len(entries), (reader, len(rows))
    for row, entry in zip(rows, entries):
        want = expected(entry)
        assert found(row) == want, (reader, found(row), want)
        # What the numbers don't say exactly stands in `metrics`, whole.
        rest = row[-2] if row[-2] == row[-2] else None
        metrics = entry.get("metrics")
        if rest is None:
            said = {name for name, cell in zip(names, row[7:-2]) if cell is not None and cell == cell}
            assert said == {name for name, _ in numbers(metrics or {})}, (reader, row)
            assert "note" not in (metrics or {}) and "huge" not in (metrics or {}), (reader, row)
        else:
            assert json.loads(rest) == metrics, (reader, rest)
    assert any(row[-2] == row[-2] and row[-2] is not None for row in rows), reader
    print(reader, "agrees on", len(rows), "entries")


header = ["log_id", "experiment", "received_at", "variant_key", *JSON]
header += ["metrics." + name for name in names] + ["metrics", "other"]
utc = "strftime(received_at at time zone 'UTC', '%Y-%m-%dT%H:%M:%S.%gZ')"

rows = duckdb.read_parquet(table_parquet)
assert rows.columns == header, rows.columns
types = dict(zip(rows.columns, map(str, rows.types)))
assert types["received_at"] == "TIMESTAMP WITH TIME ZONE", types
assert all(types["metrics." + name] == "DOUBLE" for name in names), types
check("duckdb, parquet", duckdb.sql(f"select * replace ({utc} as received_at) from rows").fetchall())
query = "select count(*) from rows where (input->>'query') is not null and \"metrics.latency_ms\" > 0"
assert duckdb.sql(query).fetchall()[0][0] > 0
# Each column's type as DuckDB finds it by itself.
rows = duckdb.read_csv(table_csv)
assert rows.columns == header, rows.columns
assert dict(zip(rows.columns, map(str, rows.types)))["metrics.ms"] == "DOUBLE"
check("duckdb, csv", duckdb.sql(f"select * replace ({utc} as received_at) from rows").fetchall())

frame = pandas.read_parquet(table_parquet)
assert list(frame.columns) == header and str(frame["received_at"].dtype).endswith("UTC]")
assert all(frame["metrics." + name].dtype == "float64" for name in names)
times = frame["received_at"].dt.strftime("%Y-%m-%dT%H:%M:%S.%f").str[:-3] + "Z"
check("pandas, parquet", frame.assign(received_at=times).itertuples(index=False, name=None))
frame = pandas.read_csv(table_csv, float_precision="round_trip")
assert list(frame.columns) == header
check("pandas, csv", frame.itertuples(index=False, name=None))

frame = polars.read_parquet(table_parquet)
assert frame.columns == header and frame.schema["input"] == polars.String, frame.schema
assert frame.schema["received_at"] == polars.Datetime("ms", "UTC"), frame.schema
times = polars.col("received_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
check("polars, parquet", frame.with_columns(times).rows())
