"""The errors that a user can cause, as opposed to bugs.

Each carries one sentence (or several lines) that names the thing, what was expected and what to do. The
command line prints it without a traceback and exits with `exit_code`.
"""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: a missing file, a corrupt image, a stale table. Exit code 1."""

    exit_code = 1


class ConfigError(UserError):
    """The command line or the configuration is wrong. Exit code 2."""

    exit_code = 2


class StaleInputError(UserError):
    """An input was made from something else than what is asked for now; the message names the fields."""
