"""The dashboard: a page that is a client of the API like any other, and what it needs beside the API."""
