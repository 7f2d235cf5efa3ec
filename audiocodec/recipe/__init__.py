"""What a configuration means before anything runs: overrides, what each key accepts, the signature."""
