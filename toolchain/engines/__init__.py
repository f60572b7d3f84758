"""One file per runtime: builds an engine, and opens a session that runs it."""
