"""Secrets that are kept in files, one a file, as Docker and Kubernetes hand them over."""

from pathlib import Path

from worker.errors import ConfigurationError


def read_secret(path: Path, what: str) -> str:
    """Return the secret in the file at ``path``, without the end of its line; ``what`` names it in errors.

    Raises ConfigurationError where the file is missing, can't be read, is empty or has several lines.
    """
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigurationError(f"{what}: there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"{what}: the file {path} can't be read: {why}") from None
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret.strip():
        raise ConfigurationError(f"{what}: the file {path} is empty")
    if any(not character.isprintable() for character in secret):
        raise ConfigurationError(f"{what}: the file {path} must hold one line of visible characters")
    return secret
