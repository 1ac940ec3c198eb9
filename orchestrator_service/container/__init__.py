"""How a container begins: what the image needs and the services do not, and then the service itself by `exec`.

A container gives directories that may belong to somebody else, secrets as files that may be empty, and one port. Here
that is looked at before anything runs, so that what is wrong is one sentence and exit code 2. Nothing of this stays:
the service takes the place of this process and gets its signals itself.
"""
