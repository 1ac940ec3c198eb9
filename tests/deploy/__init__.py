"""The files that deploy and release this: each is looked at by the tool that knows its kind."""
