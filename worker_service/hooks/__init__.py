"""Hook events of the Claude sessions on their way to everybody who wants to know."""
