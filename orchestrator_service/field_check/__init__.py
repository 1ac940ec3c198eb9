"""The field check: what a running team is asked from outside, with its real watcher, pipes and sidecar."""
