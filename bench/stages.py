"""The stages of an event that bench/micro.py measures, in order, and what each does. The report prints these too."""

EVENTS = 5_120
ROWS_PER_BATCH = 512
EVENTS_PER_COMMIT = 64

STAGES = {
    "http": "parse head and body of a request with aiohttp's parser",
    "head": "parse the head of a request on the fast path",
    "client_ip": "find the client's address behind a trusted proxy",
    "rate_limit": "take a token from the client's bucket",
    "gate": "check tracking, localhost, origin and excluded addresses",
    "bots": "check for a known bot and both opt-outs, only on a site that drops these",
    "parse": "parse JSON with ujson; only for events that `read` does not accept",
    "validate": "check all fields of the contract; only for events that `read` does not accept",
    "values": "build a row of column values; only for events that `read` does not accept",
    "read": "parse, validate and build the row in one pass, for ordinary events",
    "accept": "read, check excluded paths and build the event",
    "batch": "split a batch of NDJSON, and read each event as one of a sender with a key",
    "encode": "encode the journal record",
    "columns": f"turn rows into columns, {ROWS_PER_BATCH} at a time",
    "commit_write": f"encode and write records with durability `write`, {EVENTS_PER_COMMIT} at a time",
    "commit_fsync": f"encode, write and sync records with durability `fsync`, {EVENTS_PER_COMMIT} at a time",
    "parquet": f"write columns to one published part of {EVENTS:,} rows",
}
