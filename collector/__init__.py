"""An analytics event collector: it receives events over HTTP and writes Parquet files."""

VERSION = "0.1.0"
