"""HTTP/1.1 as a worker reads and writes it: the parser port and its parsers, the one policy, the response head."""
