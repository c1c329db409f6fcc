"""The editor in a browser: a local server, one page, and an engine process behind it."""
