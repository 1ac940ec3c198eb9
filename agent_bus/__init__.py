"""What both services speak: messages, the shared directory, queues. Imports neither service."""
