"""Pictures of discoveries and scenes."""
