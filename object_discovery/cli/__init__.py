"""The command `object-discovery`: its subcommands, and flags from dataclasses."""
