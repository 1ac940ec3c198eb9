"""What both services are made of beside the bus: settings from the environment, the HTTP server, findings."""
