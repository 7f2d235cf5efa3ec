"""From overrides to a checked configuration: composition, checks, signature, description."""
