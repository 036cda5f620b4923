"""Signs statements with the key in BILLING_SIGNING_KEY_FILE; without one they are not signed."""

from pathlib import Path
from typing import Any

import msgspec

from billing_client.contract.statements.signatures import INSTALL, KeysError, SigningKeys, as_json
from billing_client.contract.statements.structs import Statement
from billing_service.settings import Settings, SettingsError


class Signer:
    """Signs statements.

    Args:
        keys: The keys; None to sign nothing.
    """

    def __init__(self, keys: SigningKeys | None) -> None:
        self._keys = keys
        self.public: dict[str, Any] = {"keys": []} if keys is None else keys.public()

    def sign(self, statement: Statement[str]) -> Statement[str]:
        """The statement with its signature, or as it is where there is no key."""
        if self._keys is None:
            return statement
        return msgspec.structs.replace(statement, signature=self._keys.sign(as_json(statement)))


def load_signer(settings: Settings) -> Signer:
    """Read the keys. Raises SettingsError if the file does not hold what it must."""
    file = settings.signing_key_file
    if file is None:
        return Signer(None)
    try:
        return Signer(SigningKeys(Path(file).read_bytes()))
    except OSError as error:
        raise SettingsError(f"BILLING_SIGNING_KEY_FILE: {file!r} cannot be read: {error.strerror}") from error
    except KeysError as error:
        right = "make one with: openssl genpkey -algorithm ed25519"
        raise SettingsError(f"BILLING_SIGNING_KEY_FILE: {file!r} is not valid: {error}; {right}") from error
    except ImportError as error:
        raise SettingsError(
            f"BILLING_SIGNING_KEY_FILE: it is set, but {error.name} is not installed; unset it, or run: {INSTALL}"
        ) from error
