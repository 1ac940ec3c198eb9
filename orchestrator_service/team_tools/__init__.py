"""What a model can ask of the team: six tools, and the ways on which MCP clients reach them."""
