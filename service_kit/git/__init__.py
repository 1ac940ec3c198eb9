"""Git as the services run it: never a program that a repository names, and what a repository is."""
