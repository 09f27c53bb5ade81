"""Exceptions: their words are the engine's, a class stands for what a caller can do about it."""


class Error(Exception):
    """Something could not be done. All exceptions of brooklet are of this class."""


class FileError(Error, OSError):
    """A file cannot be read or written, is damaged, or is of another kind or model."""


class DeviceError(Error):
    """A device is not there, failed, or cannot run the model."""


class ContextError(Error):
    """A text does not fit the model's context, or its state the memory: give fewer tokens."""


class StateError(Error):
    """A state of another model, logits that are not there, a way back that is too long."""


class OptionError(Error, ValueError):
    """An option outside its range, or a grammar that is none."""


class TokenError(Error, ValueError):
    """A text that cannot be made into tokens, or a token outside the vocabulary."""


class TemplateError(Error, ValueError):
    """A model's chat template that cannot be read, or refuses a conversation."""
