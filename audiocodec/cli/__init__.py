"""The `audiocodec` command: one file per subcommand, listed in `main`."""
