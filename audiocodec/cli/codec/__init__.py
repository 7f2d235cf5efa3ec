"""Subcommands that use a codec: files, tokens, exports."""
