"""An analytics event collector: events come in over HTTP, Parquet files come out."""

VERSION = "0.1.0"
