"""Signs statements with the key in BILLING_SIGNING_KEY_FILE; without one they are not signed."""

from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from billing_client.contract.statements.signatures import INSTALL, KeysError, SigningKeys, as_json
from billing_client.contract.statements.structs import Statement
from billing_service.settings import Settings, SettingsError


class _Header(Struct):
    kid: str


_decode_header = msgspec.json.Decoder(_Header).decode


def key_id_of(signature: str) -> str | None:
    """The id of the key that a signature says it was made with; None if it cannot be read.

    Args:
        signature: A JWS (RFC 7515) in its compact form.
    """
    header = signature.partition(".")[0]
    try:
        return _decode_header(urlsafe_b64decode(header + "=" * (-len(header) % 4))).kid
    except ValueError:
        return None


class Signer:
    """Signs statements.

    Args:
        keys: The keys; None to sign nothing.

    Attributes:
        public: The public keys, as a JSON Web Key Set.
        key_ids: The ids of these.
    """

    def __init__(self, keys: SigningKeys | None) -> None:
        self._keys = keys
        self.public: dict[str, Any] = {"keys": []} if keys is None else keys.public()
        self.key_ids = frozenset(key["kid"] for key in self.public["keys"])

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
