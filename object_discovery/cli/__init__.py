"""Flags from dataclasses, and the command with its subcommands."""
