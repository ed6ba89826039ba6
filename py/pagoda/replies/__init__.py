"""What a model's text means: reasoning and tool calls in it, found while it is generated."""
