"""Training runs: settings and folder, trainer and callbacks, fitting and resuming."""
