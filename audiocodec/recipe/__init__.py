"""What a configuration means before anything runs: overrides, checks, signature, description."""
