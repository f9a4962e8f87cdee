"""Storage test fixtures: stores that fail on demand, and a loopback S3 server that counts requests."""
