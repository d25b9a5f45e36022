"""The 233 claims, a file or several for each document; importing this enters them all."""

from tinypeft.claims.audit import glossary  # noqa: F401
from tinypeft.claims.claim import CLAIMS

__all__ = ["CLAIMS"]
