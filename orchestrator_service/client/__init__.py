"""The HTTP API from the other side: for the command line, and for MCP over standard input and output."""
