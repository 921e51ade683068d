"""Errors that a user can mend: the command line prints them as one line and exits with status 2."""


class UserError(ValueError):
    """Something in the arguments or the files is not as it must be; the message says what to do."""


class DatasetNotFoundError(UserError):
    """No dataset of this name, or nothing at the place where it should be."""


class CorruptFileError(UserError):
    """A file is truncated, damaged or of another kind; the message names the file and the place in it."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or of another model."""
